"""Which head and which probe belong to a task."""

from __future__ import annotations

from torch import nn

from radio.tasks.linear import LinearClassifier
from radio.tasks.probing.config import Task
from radio.tasks.probing.heads import DepthHead, NeighborsClassifier, SegmentationHead
from radio.tasks.probing.probes import ClassificationProbe, DepthProbe, Probe, SegmentationProbe

KINDS: dict[Task, tuple[type[Probe], type[nn.Module]]] = {
    "linear": (ClassificationProbe, LinearClassifier),
    "knn": (ClassificationProbe, NeighborsClassifier),
    "segmentation": (SegmentationProbe, SegmentationHead),
    "depth": (DepthProbe, DepthHead),
}
