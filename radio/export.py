"""Export: the whole model with its adaptors as a file of ONNX, OpenVINO or ``torch.export``, for all sizes."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import radio
from radio.errors import ExportError
from radio.files import Outputs, staging
from radio.model import RADIOModel
from radio.modeling.network import FeatureFormat, RADIONetwork
from radio.modeling.outputs import RadioOutput
from radio.optional import require
from radio.quantization import is_quantized
from radio.runtimes.openvino import save_ir
from radio.runtimes.tracing import DYNAMIC, fixed_size, save_onnx, trace

Runner = Callable[[Tensor], dict[str, Tensor]]
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Check:
    """How an exported file differs from the model at one size.

    Attributes:
        shape: The shape of the images, (B, 3, H, W).
        errors: For every output its largest error, relative to the largest magnitude of the model's output.
    """

    shape: tuple[int, int, int, int]
    errors: dict[str, float]


class _Flat(nn.Module):
    """The model with its outputs in one flat dict: summary, features, clip_summary, clip_features, ..."""

    def __init__(self, model: RADIONetwork, feature_fmt: FeatureFormat) -> None:
        super().__init__()
        self.model = model
        self.feature_fmt = feature_fmt

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return _flatten(self.model(pixels, self.feature_fmt))


def _flatten(output: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of an output by its name in the file; the backbone's part has no prefix."""
    if isinstance(output, RadioOutput):
        return {f"{prefix}{field}": value for field, value in zip(output._fields, output, strict=True)}
    flat: dict[str, Tensor] = {}
    for name, part in output.items():
        flat |= _flatten(part, prefix if name == "backbone" else f"{prefix}{name}_")
    return flat


def output_names(model: RADIONetwork) -> list[str]:
    """Names of the outputs of an export, in order: the backbone's, then those of each adaptor.

    A RADIO1D model that gives both outputs has ``encoder_summary``, ``encoder_features``, ``decoder_summary``, ...
    """
    last = [f"{name}_" for name in model.adaptors or ()]
    prefixes = ["", *last]
    if model._config.radio1d is not None and model._config.radio1d.neck_name is None:
        prefixes = ["encoder_", "decoder_", *(f"decoder_{prefix}" for prefix in last)]
    return [f"{prefix}{field}" for prefix in prefixes for field in RadioOutput._fields]


def export_program(
    model: RADIONetwork,
    dynamic: Sequence[str] = DYNAMIC,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    feature_fmt: FeatureFormat = "NLC",
) -> ExportedProgram:
    """The model as a ``torch.export`` program: ``program.module()(pixels)`` gives a dict of outputs by name.

    Args:
        model: In eval mode. Its adaptors and ViTDet windows are part of the program.
        dynamic: Which of ``"batch"``, ``"height"`` and ``"width"`` may change. Height and width then are multiples
            of ``model.min_resolution_step``, at least two of it and at most ``model.max_resolution``.
        size: Height and width where they are not dynamic; the preferred resolution by default.
        batch: Number of images where it is not dynamic.
        feature_fmt: ``"NLC"`` for features (B, L, C), ``"NCHW"`` for (B, C, H/P, W/P).

    Raises:
        ValueError: The model is in training mode, or a dimension or size is not supported.
    """
    _check_request(model, dynamic, size, batch)
    any_size = "height" in dynamic or "width" in dynamic
    model.require(program_of_any_size=any_size, export_of_any_size=any_size)
    return trace(_Flat(model, feature_fmt), model, dynamic, size, batch)


def export_model(
    model: RADIONetwork,
    path: str | Path,
    dynamic: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    batch: int = 1,
    feature_fmt: FeatureFormat = "NLC",
    check: bool = False,
    outputs: Outputs | None = None,
) -> list[Check]:
    """Write the model to an ONNX file, a file of OpenVINO or a ``torch.export`` file.

    The input ``pixels`` is (B, 3, H, W) float32 in [0, 1]: normalization is inside. The outputs are ``summary``,
    ``features`` and, for every adaptor, e.g. ``clip_summary`` and ``clip_features``.

    Args:
        model: In eval mode, in the dtype that the file should compute in.
        path: ``*.onnx``, ``*.xml`` or ``*.pt2``. The file appears when it is complete (and checked). Weights of more
            than 1.5 GB lie beside an ONNX file, in ``NAME-<12 letters>.onnx.data``; those of an earlier export are
            removed. All weights of an ``*.xml`` lie beside it, in ``NAME.bin``.
        dynamic, size, batch, feature_fmt: As for `export_program`.
        check: Run the file (ONNX in ONNX Runtime, XML in OpenVINO) at sizes it was not traced at, square and in both
            orientations where height and width are dynamic, and compare with the model.
        outputs: Of the run that the file belongs to, whose inputs are not replaced.

    Returns:
        What the check found at each size; empty without `check`.

    Raises:
        ValueError: The suffix, the size or a dimension is not supported, or the path is a folder, an input of the run
            or was written by it.
        OSError: The file cannot be written there.
        ExportError: ONNX has no form for an operator (int8_dynamic), the check failed, or ONNX Runtime cannot run
            the file (bfloat16); the file is not written.
        MissingExtraError: ONNX packages, or OpenVINO, are not installed.
    """
    path = Path(path)
    check_path(path)
    if path.suffix == ".onnx":
        for module in ("onnx", "onnxscript", *(("onnxruntime",) if check else ())):
            require(module, "export")
    if path.suffix == ".xml":
        for module in ("openvino", "onnx", "onnxscript"):
            require(module, "openvino")
    _check_request(model, dynamic, size, batch)
    any_size = "height" in dynamic or "width" in dynamic
    model.require(program_of_any_size=any_size and path.suffix == ".pt2", export_of_any_size=any_size)
    metadata = _metadata(model, feature_fmt)
    with _staged(path, outputs) as staged:
        program = trace(_Flat(model, feature_fmt), model, dynamic, size, batch)
        if path.suffix == ".onnx":
            _save_onnx(program, staged, metadata, model)
        elif path.suffix == ".xml":
            _save_openvino(program, staged, metadata, model)
        else:
            _save_program(program, staged, metadata)
        if not check:
            return []
        checks = _compare(model, staged, _shapes_to_check(model, dynamic, size, batch), feature_fmt)
        _raise_if_wrong(checks, _TOLERANCE[model.dtype])
    return checks


def check_path(path: Path) -> None:
    """Make sure that the path is that of a file that can be exported to.

    Raises:
        ValueError: It is a folder, or its ending says no format.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file to write")
    if path.suffix not in _RUNNERS:
        raise ValueError(
            f"cannot tell the format of {path.name!r}; the suffix must be .onnx, .xml (OpenVINO) or .pt2 (torch.export)"
        )


def _check_request(
    model: RADIONetwork, dynamic: Sequence[str], size: tuple[int, int] | None, batch: int
) -> None:
    model.require(saving=True)
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before the export")
    for name in dynamic:
        if name not in DYNAMIC:
            raise ValueError(f"unknown dynamic dimension {name!r}; allowed: {', '.join(DYNAMIC)}")
    if batch < 1:
        raise ValueError(f"the batch must be at least 1 image, got {batch}")
    if size is None:
        return
    step = model.min_resolution_step
    if min(size) < step or size[0] % step or size[1] % step:
        nearest = model.get_nearest_supported_resolution(*size)
        raise ValueError(
            f"height and width must be multiples of {step}, got {size[0]} x {size[1]}; the nearest supported size is "
            f"{nearest.height} x {nearest.width}"
        )


def _shapes_to_check(
    model: RADIONetwork, dynamic: Sequence[str], size: tuple[int, int] | None, batch: int
) -> list[tuple[int, int, int, int]]:
    """Shapes that the export was not traced at: square, landscape, portrait, as far as they may differ."""
    step = model.min_resolution_step
    height, width = fixed_size(model, size)
    shapes = []
    for images, rows, columns in ((1, 5, 5), (3, 3, 8), (2, 8, 3)):
        shapes.append(
            (
                images if "batch" in dynamic else batch,
                3,
                rows * step if "height" in dynamic else height,
                columns * step if "width" in dynamic else width,
            )
        )
    return list(dict.fromkeys(shapes))


def _metadata(model: RADIONetwork, feature_fmt: str) -> dict[str, str]:
    release = model.release if isinstance(model, RADIOModel) else None
    license = release.license if release else "unknown; ask whoever trained the weights"
    return {
        "version": model.config.version or model.config.architecture,
        "license_of_the_weights": license,
        "exported_with": f"radio {radio.__version__}, torch {torch.__version__}",
        "patch_size": str(model.patch_size),
        "height_and_width_are_multiples_of": str(model.min_resolution_step),
        "input": "pixels (B, 3, H, W) float32 in [0, 1]; normalization is inside",
        "feature_format": feature_fmt,
        "adaptors": ",".join(model.adaptors or ()),
    }


@contextmanager
def _staged(path: Path, outputs: Outputs | None) -> Iterator[Path]:
    """A place to write ``path`` and weights beside it; they move to their places when the block ends well.

    Weights beside it have a name of their own in every export. The old file goes on naming the old weights until the
    new file, which names the new ones, takes its place in one step: at no moment does a graph meet other weights.
    OpenVINO finds weights by the name of the graph, so there the old graph goes away first.
    """
    move = os.replace if outputs is None else outputs.move
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging(path.parent, path.name) as folder:
        staged = folder / path.name
        yield staged
        beside = [file for file in folder.iterdir() if file != staged]
        if path.suffix == ".xml":
            if outputs is not None:
                outputs.check(path)
            path.unlink(missing_ok=True)
        for file in beside:
            move(file, path.parent / file.name)
        move(staged, path)
        if path.suffix == ".onnx":
            _remove_old_weights(path, {file.name for file in beside})


def _remove_old_weights(path: Path, current: set[str]) -> None:
    """Remove the weights that earlier exports to the same path left beside it."""
    pattern = re.compile(rf"{re.escape(path.stem)}(-[0-9a-f]{{12}})?\.onnx\.data")
    for file in path.parent.iterdir():
        if pattern.fullmatch(file.name) and file.name not in current:
            file.unlink(missing_ok=True)


class _FailingLater(io.RawIOBase):
    """A file that keeps its first error to itself: PyTorch's archive writer aborts the process when a write fails."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error
        return length


def _save_program(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    with path.open("wb", buffering=0) as file:
        writer = _FailingLater(file)
        torch.export.save(program, writer, extra_files={"radio.json": json.dumps(metadata)})  # type: ignore[arg-type]
        if writer.error is not None:
            raise writer.error


def _save_onnx(program: ExportedProgram, path: Path, metadata: dict[str, str], model: RADIONetwork) -> None:
    try:
        save_onnx(program, path, output_names(model), metadata, version=radio.__version__)
    except torch.onnx.OnnxExporterError as error:
        if is_quantized(model):
            remedy = "Quantize with mode='int8_weight_only', which ONNX can hold, or write a .pt2 file"
        else:
            remedy = "Write a .pt2 file instead"
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ExportError(
            f"PyTorch cannot write this model as ONNX ({reason}); nothing was written. {remedy}"
        ) from error


def _save_openvino(
    program: ExportedProgram, path: Path, metadata: dict[str, str], model: RADIONetwork
) -> None:
    with staging(path.parent, path.name) as folder:
        onnx = folder / f"{path.stem}.onnx"
        _save_onnx(program, onnx, {}, model)
        save_ir(onnx, path, metadata)


def _compare(
    model: RADIONetwork, path: Path, shapes: Sequence[tuple[int, int, int, int]], feature_fmt: FeatureFormat
) -> list[Check]:
    names = output_names(model)
    run = _RUNNERS[path.suffix](path, names, model.device)
    reference = _Flat(model, feature_fmt)
    checks = []
    for shape in shapes:
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = reference(pixels.to(model.device))
        actual = run(pixels)
        checks.append(Check(shape, {name: _relative_error(actual[name], expected[name]) for name in names}))
    return checks


def _onnx_runner(path: Path, names: Sequence[str], device: torch.device) -> Runner:
    onnxruntime = require("onnxruntime", "export")
    unsupported = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except unsupported as error:
        raise ExportError(
            f"ONNX Runtime's CPU provider cannot run the file, so it cannot be checked: {error}; nothing was written. "
            "Export in float32 or float16, or without the check"
        ) from error

    def run(pixels: Tensor) -> dict[str, Tensor]:
        values = session.run(list(names), {"pixels": pixels.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def _openvino_runner(path: Path, names: Sequence[str], device: torch.device) -> Runner:
    openvino = require("openvino", "openvino")
    precise = {
        "INFERENCE_PRECISION_HINT": "f32"
    }  # OpenVINO computes in bfloat16 by itself where a CPU has it
    request = openvino.Core().compile_model(path, "CPU", precise).create_infer_request()

    def run(pixels: Tensor) -> dict[str, Tensor]:
        request.infer([pixels.numpy()])
        return {name: torch.from_numpy(request.get_tensor(name).data.astype("float32")) for name in names}

    return run


def _program_runner(path: Path, names: Sequence[str], device: torch.device) -> Runner:
    module = torch.export.load(path).module()

    def run(pixels: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return module(pixels.to(device))

    return run


_RUNNERS = {".onnx": _onnx_runner, ".xml": _openvino_runner, ".pt2": _program_runner}
"""What runs a file, by its suffix."""


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.float().cpu(), expected.float().cpu()
    if actual.shape != expected.shape:
        raise ExportError(
            f"an exported output has shape {tuple(actual.shape)}, the model's {tuple(expected.shape)}"
        )
    return float((actual - expected).abs().max() / expected.abs().max())


def _raise_if_wrong(checks: Sequence[Check], tolerance: float) -> None:
    for check in checks:
        for name, error in check.errors.items():
            if not error <= tolerance:
                raise ExportError(
                    f"the exported file differs from the model at {check.shape}: {name} by {error:.1e} of its "
                    f"largest value, allowed {tolerance:.0e}; nothing was written"
                )
