"""``radio probe``: heads on frozen features, trained, used and measured."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import (
    find_images,
    load_chosen_model,
    print_result,
    print_table,
    progress,
    show,
    table_lines,
)
from radio.cli.options import (
    add_adaptor,
    add_batch_size,
    add_execution,
    add_json,
    add_model,
    add_output,
    add_size,
    add_skip_unreadable,
    one_adaptor,
    positive_int,
)

if TYPE_CHECKING:
    from radio.model import RADIOModel
    from radio.tasks.probing import DepthProbe, SegmentationProbe, SlidingWindows

_TASKS = ("linear", "knn", "segmentation", "depth")
_MILLIMETERS = 1000.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three commands and their arguments."""
    commands = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, help="train, predict or evaluate"
    )
    _add_train(commands.add_parser("train", help="train a head on labeled images"))
    _add_predict(commands.add_parser("predict", help="use a trained head on images"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a trained head on labeled images"))
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )


def run(args: argparse.Namespace) -> None:
    """Do what was asked for."""
    {"train": _train, "predict": _predict, "evaluate": _evaluate}[args.action](args)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "task",
        choices=_TASKS,
        metavar="TASK",
        help="linear or knn: classes of images; segmentation: of pixels; depth: of pixels, in meters",
    )
    _add_data(parser)
    group = parser.add_argument_group("classes")
    group.add_argument(
        "--classes-file",
        type=Path,
        metavar="FILE",
        help="segmentation: names of the labels, one per line (default: their numbers)",
    )
    add_output(parser, "folder for the probe", metavar="PROBE")
    add_model(parser)
    add_adaptor(parser, "use this teacher's features, in place of the backbone's")
    add_size(parser)
    fit = parser.add_argument_group("training")
    fit.add_argument(
        "--decay", type=float, metavar="X", help="linear: weight of the penalty (default: 0.001)"
    )
    fit.add_argument("--k", type=positive_int, metavar="N", help="knn: neighbors that vote (default: 20)")
    fit.add_argument("--temperature", type=float, metavar="T", help="knn: of the votes (default: 0.07)")
    fit.add_argument(
        "--steps", type=positive_int, default=2000, metavar="N", help="segmentation, depth (default: 2000)"
    )
    fit.add_argument(
        "--images-per-step",
        type=positive_int,
        default=16,
        metavar="N",
        help="segmentation, depth (default: 16)",
    )
    fit.add_argument(
        "--learning-rate", type=float, default=1e-3, metavar="X", help="segmentation, depth (default: 0.001)"
    )
    fit.add_argument(
        "--weight-decay", type=float, default=1e-4, metavar="X", help="segmentation, depth (default: 0.0001)"
    )
    fit.add_argument("--seed", type=int, default=0, metavar="N", help="segmentation, depth (default: 0)")
    fit.add_argument(
        "--width", type=positive_int, metavar="N", help="depth: channels inside the head (default: 128)"
    )
    add_batch_size(parser, 16)
    add_skip_unreadable(parser)
    add_json(parser)
    add_execution(parser)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("probe", type=Path, metavar="PROBE", help="folder that 'radio probe train' wrote")
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them"
    )
    add_output(
        parser,
        "segmentation: folder for masks (PNG, the label at every pixel); depth: folder for 16-bit PNG files in "
        "millimeters",
        required=False,
        metavar="FOLDER",
    )
    parser.add_argument(
        "--top", type=positive_int, default=5, metavar="N", help="classes to show (default: 5)"
    )
    _add_windows(parser)
    _add_own_model(parser)
    add_json(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("probe", type=Path, metavar="PROBE", help="folder that 'radio probe train' wrote")
    _add_data(parser)
    _add_windows(parser)
    _add_own_model(parser)
    add_batch_size(parser, 16)
    add_skip_unreadable(parser)
    add_json(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DATA",
        help="linear, knn: folder with one subfolder of images per class; segmentation, depth: folder of images; or "
        "with --split the name of a data set that the datasets library knows",
    )
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="segmentation: PNG files named as the images, 255 for none",
    )
    group.add_argument(
        "--reduce-zero-label",
        action="store_true",
        help="segmentation: 0 stands for no label and 1 is the first, as in ADE20k",
    )
    group.add_argument(
        "--depths", type=Path, metavar="FOLDER", help="depth: 16-bit PNG files, or .npy arrays in meters"
    )
    group.add_argument(
        "--depth-scale",
        type=float,
        default=_MILLIMETERS,
        metavar="X",
        help="what whole numbers are divided by to give meters (default: 1000)",
    )
    group.add_argument(
        "--split", metavar="NAME", help="DATA is a data set of the datasets library; this part of it"
    )
    group.add_argument(
        "--mask-column", default="annotation", metavar="NAME", help="of a data set (default: annotation)"
    )
    group.add_argument(
        "--depth-column", default="depth_map", metavar="NAME", help="of a data set (default: depth_map)"
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FOLDER",
        help="keep features here, for other commands on the same images (default: a temporary folder)",
    )


def _add_windows(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("windows", "segmentation, depth: for images larger than in training")
    group.add_argument(
        "--window",
        type=positive_int,
        metavar="PIXELS",
        help="side of square crops that cover the image, such as the size of the training (default: none, the whole "
        "image at the size of the training)",
    )
    group.add_argument(
        "--stride",
        type=positive_int,
        metavar="PIXELS",
        help="distance of neighboring crops (default: two thirds)",
    )
    add_size(group, default_help="with --window, the image's own, the short side at least the window")


def _windows(args: argparse.Namespace) -> SlidingWindows | None:
    from radio.tasks.probing import SlidingWindows

    if args.window is None:
        if args.stride is not None or args.size is not None:
            raise ValueError("--stride and --size go with --window; without, images have the training's size")
        return None
    return SlidingWindows(args.window, args.stride, args.size)


def _check_windows(probe: Any, windows: SlidingWindows | None) -> None:
    from radio.tasks.probing import ClassificationProbe

    if windows is not None and isinstance(probe, ClassificationProbe):
        raise ValueError("--window is for masks and depths; this probe gives classes of whole images")


def _add_own_model(parser: argparse.ArgumentParser) -> None:
    add_model(parser, optional=True, default_help="the one that the probe was trained on, where it was then")
    parser.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)"
    )


def _train(args: argparse.Namespace) -> None:
    from radio.files import Outputs
    from radio.tasks.probing import FitOptions, train_probe
    from radio.tasks.probing.config import CONFIG_FILE, WEIGHTS_FILE

    files = [args.output / CONFIG_FILE, args.output / WEIGHTS_FILE]
    outputs = Outputs([args.model, args.classes_file])
    outputs.check(*files)
    settings = {
        name: value
        for name in ("decay", "k", "temperature", "width")
        if (value := getattr(args, name)) is not None
    }
    fit = FitOptions(args.steps, args.images_per_step, args.learning_rate, args.weight_decay, args.seed)
    data = _data(args, args.task, _read_classes(args.classes_file))
    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    with _features(args) as folder:
        probe = train_probe(
            args.task,
            model,
            data,
            folder,
            args.size,
            one_adaptor(args),
            fit,
            args.batch_size,
            args.skip_unreadable,
            progress,
            **settings,
        )
    probe.save(args.output, outputs)
    facts = {
        "task": args.task,
        "classes": len(probe.classes),
        **probe.config.training,
        "written": str(args.output),
    }
    print_result(args, facts, table_lines([[name, str(value)] for name, value in facts.items()]))


def _predict(args: argparse.Namespace) -> None:
    from radio.tasks.probing import ClassificationProbe

    windows = _windows(args)
    paths = find_images(args.images)
    probe = _open(args)
    _check_windows(probe, windows)
    if isinstance(probe, ClassificationProbe):
        if args.output is not None:
            raise ValueError("--output is for masks and depths; this probe gives classes of whole images")
        found = [(str(path), probe.predict(path, args.top)) for path in progress(paths, len(paths), "images")]
        rows = [{"image": name, "classes": [each._asdict() for each in ranked]} for name, ranked in found]
        print_result(args, {"images": rows}, [])
        if not args.json:
            for name, ranked in found:
                show(name)
                print_table([[each.label, f"{each.score:6.1%}"] for each in ranked], ["class", " score"])
        return
    if args.output is None:
        raise ValueError(
            "this probe gives a value for every pixel; name a folder for the files with --output"
        )
    written = _write_maps(probe, paths, args.output, windows)
    print_result(args, {"images": written}, [f"written: {each['written']}" for each in written])


def _write_maps(
    probe: SegmentationProbe | DepthProbe,
    paths: Sequence[Path],
    folder: Path,
    windows: SlidingWindows | None,
) -> list[dict[str, Any]]:
    """Masks or depths of images as PNG files."""
    from radio.files import Outputs
    from radio.tasks.probing import SegmentationProbe

    outputs = Outputs(paths)
    targets = [folder / f"{path.stem}.png" for path in paths]
    outputs.check(*targets)
    written = []
    for path, target in progress(zip(paths, targets, strict=True), len(paths), "images"):
        facts: dict[str, Any] = {"image": str(path), "written": str(target)}
        if isinstance(probe, SegmentationProbe):
            labels = probe.labels(path, windows)
            picture = _mask_picture(labels, len(probe.classes))
            shares = labels.flatten().bincount(minlength=len(probe.classes)) / labels.numel()
            facts["shares"] = dict(zip(probe.classes, shares.tolist(), strict=True))
        else:
            depth = probe.predict(path, windows)
            picture = _depth_picture(depth)
            facts |= {"min": float(depth.min()), "max": float(depth.max())}
        with outputs.write(target) as temporary:
            picture.save(temporary)
        written.append(facts)
    return written


def _mask_picture(labels: Any, classes: int) -> Any:
    """A mask with a palette; above 256 classes, with 16 bits."""
    import numpy as np
    from PIL import Image

    from radio.drawing.segmentation import palette

    if classes > 256:
        return Image.fromarray(labels.numpy().astype(np.uint16))
    picture = Image.fromarray(labels.numpy().astype(np.uint8))
    picture.putpalette([value for color in palette(classes) for value in color])
    return picture


def _depth_picture(depth: Any) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray((depth.numpy() * _MILLIMETERS).round().clip(0, 65535).astype(np.uint16))


def _evaluate(args: argparse.Namespace) -> None:
    windows = _windows(args)
    probe = _open(args)
    _check_windows(probe, windows)
    data = _data(args, probe.config.task, list(probe.classes))
    options = {} if windows is None else {"windows": windows}
    with _features(args) as folder:
        found = probe.evaluate(data, folder, args.batch_size, args.skip_unreadable, progress, **options)
    rows = [
        [name, f"{value:.4f}" if isinstance(value, float) else str(value)] for name, value in found.items()
    ]
    print_result(args, {"probe": str(args.probe), **found}, table_lines(rows))


def _open(args: argparse.Namespace) -> Any:
    from radio.tasks.probing import ProbeConfig, load_probe
    from radio.tasks.probing.config import CONFIG_FILE, load_options

    model: RADIOModel | None = None
    if args.model is not None:
        from radio import load_model

        config, _ = ProbeConfig.read(args.probe / CONFIG_FILE)
        model = load_model(args.model, device=args.device, **load_options(config))
    return load_probe(args.probe, model, args.device)


@contextmanager
def _features(args: argparse.Namespace) -> Iterator[Path]:
    """The folder for features that was named, or one that is removed at the end."""
    if args.features is not None:
        yield args.features
        return
    with tempfile.TemporaryDirectory(prefix="radio-probe-") as folder:
        yield Path(folder)


def _data(args: argparse.Namespace, task: str, classes: list[str] | None) -> Any:
    """The labeled images that the arguments name."""
    from radio.data.dense import DepthFolder, HubDepths, HubMasks, MaskFolder
    from radio.data.labeled import HubImages, ImageFolder

    if task in ("linear", "knn"):
        return ImageFolder(args.data) if args.split is None else HubImages(args.data, args.split)
    if task == "depth":
        if args.split is not None:
            return HubDepths(args.data, args.split, args.depth_column, args.depth_scale)
        if args.depths is None:
            raise ValueError(
                "depth needs --depths FOLDER, with a file of the same name for each image, or --split NAME"
            )
        return DepthFolder(args.data, args.depths, args.depth_scale)
    if args.split is not None:
        if classes is None:
            raise ValueError("segmentation of a data set needs --classes-file FILE, one name per line")
        return HubMasks(args.data, args.split, classes, args.mask_column, args.reduce_zero_label)
    if args.masks is None:
        raise ValueError("segmentation needs --masks FOLDER, with a PNG file of the same name for each image")
    return MaskFolder(args.data, args.masks, classes, args.reduce_zero_label)


def _read_classes(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has a name twice")
    return names
