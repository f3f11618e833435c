"""Heads on frozen features: classification, segmentation and depth; trained, saved, loaded, measured.

>>> from radio import load_model
>>> from radio.data.labeled import ImageFolder
>>> from radio.tasks.probing import load_probe, train_probe
>>> model = load_model("c-radio_v3-b")
>>> probe = train_probe("linear", model, ImageFolder("train/"), "features/", size=224)
>>> probe.save("probe/")
>>> load_probe("probe/", model).predict("photo.jpg")

Features are computed once and kept in files (the ``probe`` extra); a saved probe predicts without it.
"""

from radio.tasks.probing.config import TASKS, ProbeConfig, Task
from radio.tasks.probing.fitting import FitOptions
from radio.tasks.probing.opening import load_probe
from radio.tasks.probing.probes import (
    ClassificationProbe,
    DepthProbe,
    LabelScore,
    PixelLabels,
    Probe,
    SegmentationProbe,
)
from radio.tasks.probing.sliding import SlidingWindows
from radio.tasks.probing.training import train_probe

__all__ = [
    "TASKS",
    "ClassificationProbe",
    "DepthProbe",
    "FitOptions",
    "LabelScore",
    "PixelLabels",
    "Probe",
    "ProbeConfig",
    "SegmentationProbe",
    "SlidingWindows",
    "Task",
    "load_probe",
    "train_probe",
]
