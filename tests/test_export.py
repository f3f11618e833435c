"""Export: one file for all sizes, adaptors included, equal to the model in ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import torch

from radio import load_model
from radio.cli import main
from radio.errors import ExportError
from radio.export import export_model, export_program, output_names

SIZES = [(1, 80, 80), (3, 48, 128), (2, 256, 64), (1, 288, 304)]
ALL = ("batch", "height", "width")


@pytest.fixture(scope="module")
def model(reference):
    return load_model(reference / "upsample" / "checkpoint.pth.tar", device="cpu", adaptors=["clip", "sam"])


def _pixels(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def _run(path, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(None, {"pixels": pixels.numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def _expected(model, pixels: torch.Tensor, feature_fmt: str = "NLC") -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        output = model(pixels, feature_fmt=feature_fmt)
    output = output if isinstance(output, dict) else {"backbone": output}
    return {
        (field if name == "backbone" else f"{name}_{field}"): value
        for name, part in output.items()
        for field, value in part._asdict().items()
    }


def _assert_same(actual, expected, tolerance: float = 1e-4) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = (actual[name].float() - value.float()).abs().max()
        assert error <= tolerance * value.float().abs().max(), name


@pytest.fixture(scope="module")
def dynamic_onnx(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    checks = export_model(model, path, dynamic=ALL, check=True)
    shapes = [check.shape for check in checks]
    assert any(h == w for *_, h, w in shapes)
    assert any(h < w for *_, h, w in shapes)
    assert any(h > w for *_, h, w in shapes)
    assert all(error < 1e-4 for check in checks for error in check.errors.values())
    return path


@pytest.mark.parametrize("size", SIZES)
def test_one_onnx_file_for_all_sizes(model, dynamic_onnx, size):
    pixels = _pixels(*size)
    _assert_same(_run(dynamic_onnx, pixels), _expected(model, pixels))


def test_onnx_says_what_it_is(model, dynamic_onnx):
    onnx.checker.check_model(str(dynamic_onnx), full_check=True)
    file = onnx.load(str(dynamic_onnx))
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert metadata["adaptors"] == "clip,sam"
    assert metadata["height_and_width_are_multiples_of"] == "16"
    assert {"version", "license_of_the_weights", "exported_with", "feature_format"} <= metadata.keys()
    assert [output.name for output in file.graph.output] == output_names(model)
    assert output_names(model)[:4] == ["summary", "features", "clip_summary", "clip_features"]
    assert [file.graph.input[0].name, len(file.graph.input)] == ["pixels", 1]


@pytest.mark.parametrize(
    ("name", "step", "options"),
    [
        pytest.param(
            "layer_scale_norm",
            32,
            {"vitdet_window_size": 2, "vitdet_num_windowed": 2},
            id="windows",
            marks=pytest.mark.slow,
        ),
        pytest.param("no_cpe_patch14", 14, {}, id="plain"),
        pytest.param("dinov2_giant", 14, {}, id="dinov2", marks=pytest.mark.slow),
    ],
)
def test_other_layouts(reference, tmp_path, name, step, options):
    model = load_model(reference / name / "checkpoint.pth.tar", device="cpu", **options)
    export_model(model, tmp_path / "model.onnx", dynamic=ALL, feature_fmt="NCHW")
    for batch, rows, columns in [(1, 3, 3), (2, 2, 5), (1, 7, 2)]:
        pixels = _pixels(batch, rows * step, columns * step)
        _assert_same(_run(tmp_path / "model.onnx", pixels), _expected(model, pixels, "NCHW"))


def test_half_precision(reference, tmp_path):
    model = load_model(
        reference / "upsample" / "checkpoint.pth.tar", device="cpu", dtype="float16", adaptors=["sam"]
    )
    path = tmp_path / "half.onnx"
    assert export_model(model, path, size=(64, 96), check=True)[0].shape == (1, 3, 64, 96)
    weights = [tensor.data_type for tensor in onnx.load(str(path)).graph.initializer if len(tensor.dims) == 2]
    assert onnx.TensorProto.FLOAT16 in weights
    assert onnx.TensorProto.FLOAT not in weights
    pixels = _pixels(1, 64, 96)
    _assert_same(_run(path, pixels), _expected(model, pixels), 3e-2)


def test_torch_export_for_all_sizes(model, tmp_path):
    path = tmp_path / "model.pt2"
    checks = export_model(model, path, dynamic=ALL, check=True)
    assert len(checks) == 3
    extra = {"radio.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["radio.json"])["adaptors"] == "clip,sam"
    for size in SIZES:
        pixels = _pixels(*size)
        with torch.inference_mode():
            _assert_same(module(pixels), _expected(model, pixels), 1e-5)


def test_openvino_for_all_sizes(model, tmp_path):
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "model.xml"
    (tmp_path / "model.bin").write_bytes(b"weights of an older graph")
    assert len(export_model(model, path, dynamic=ALL, check=True)) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES:
        pixels = _pixels(*size)
        results = compiled([pixels.numpy()])
        _assert_same(
            {name: torch.from_numpy(results[name]) for name in output_names(model)}, _expected(model, pixels)
        )
    assert openvino.Core().read_model(path).get_rt_info(["radio", "adaptors"]).value == "clip,sam"


def test_only_the_named_dimensions_change(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    module = export_program(model, dynamic=["batch"], size=(64, 96)).module()
    with torch.inference_mode():
        assert module(_pixels(3, 64, 96))["features"].shape == (3, 24, 64)
        with pytest.raises(AssertionError):
            module(_pixels(1, 96, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic": ["depth"]}, "unknown dynamic dimension 'depth'; allowed: batch, height, width"),
        ({"size": (100, 64)}, "multiples of 16, got 100 x 64; the nearest supported size is 96 x 64"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_bad_requests(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(model, tmp_path / "model.onnx", **options)
    with pytest.raises(ValueError, match=r"must be \.onnx, \.xml \(OpenVINO\) or \.pt2"):
        export_model(model, tmp_path / "model.engine")
    assert not list(tmp_path.iterdir())


def test_a_failed_check_writes_nothing(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"the file of yesterday")
    monkeypatch.setattr("radio.export._TOLERANCE", {torch.float32: -1.0})
    with pytest.raises(ExportError, match="differs from the model at .* nothing was written"):
        export_model(model, path, size=(64, 64), check=True)
    assert path.read_bytes() == b"the file of yesterday"
    assert list(tmp_path.iterdir()) == [path]


def test_a_bfloat16_onnx_file_is_written_but_cannot_be_checked(reference, tmp_path):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", dtype="bfloat16")
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"cannot run the file.*float32 or float16, or without the check"):
        export_model(model, path, size=(32, 32), check=True)
    assert not list(tmp_path.iterdir())
    export_model(model, path, size=(32, 32))
    assert onnx.TensorProto.BFLOAT16 in {
        tensor.data_type for tensor in onnx.load(str(path)).graph.initializer
    }


def test_large_models_keep_their_weights_beside_the_file(reference, tmp_path, monkeypatch):
    model = load_model(reference / "upsample" / "checkpoint.pth.tar", device="cpu")
    monkeypatch.setattr("radio.runtimes.tracing._PROTOBUF_LIMIT", 1000)
    path = tmp_path / "model.onnx"
    export_model(model, path, size=(64, 64), check=True)
    [first] = _weights_of(path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", first}
    pixels = _pixels(1, 64, 64)
    _assert_same(_run(path, pixels), _expected(model, pixels))
    old = path.read_bytes()
    export_model(model, path, size=(64, 64))
    [second] = _weights_of(path)
    assert second != first, "a graph must never meet the weights of another export"
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", second}
    path.write_bytes(old)  # as it is when an export is killed before its last step
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        _run(path, pixels)
    monkeypatch.undo()
    export_model(model, path, size=(64, 64))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    _assert_same(_run(path, pixels), _expected(model, pixels))


def _weights_of(path) -> set[str]:
    """The files beside an ONNX file that it takes its weights from."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_full_disk_is_an_error_and_leaves_nothing(reference, tmp_path, suffix):
    """PyTorch's archive writer would abort the process. The largest size of a file stands in for a full disk."""
    path = tmp_path / "out" / f"model.{suffix}"
    code = f"""
import resource, signal
from radio import load_model
from radio.export import export_model
model = load_model({str(reference / "upsample" / "checkpoint.pth.tar")!r}, device="cpu")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    export_model(model, {str(path)!r}, size=(64, 64))
except OSError as error:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "refused", (result.returncode, result.stderr[-2000:])
    assert list((tmp_path / "out").iterdir()) == []


def test_training_mode_is_refused(reference, tmp_path):
    model = load_model(reference / "upsample" / "checkpoint.pth.tar", device="cpu").train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        export_model(model, tmp_path / "model.onnx")


def test_command(reference, tmp_path, capsys):
    checkpoint, path = reference / "upsample" / "checkpoint.pth.tar", tmp_path / "model.onnx"
    arguments = ["export", str(checkpoint), "-o", str(path), "--adaptor", "clip", "--check"]
    assert main([*arguments, "--dynamic", "batch", "--size", "64x96", "--dtype", "fp16"]) == 0
    printed = capsys.readouterr().out
    assert "outputs: summary, features, clip_summary, clip_features" in printed
    assert "1x3x64x96" in printed
    assert main(["export", str(checkpoint), "-o", str(path), "--size", "65"]) == 1
    assert "nearest supported size is 64 x 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "options", "step"),
    [
        ("eradio", {}, 32),
        ("eradio", {"eradio_window_size": 3}, 32),
        ("radio1d", {"neck_name": "decoder"}, 16),
    ],
)
def test_other_families_in_one_file_for_all_sizes(reference, tmp_path, folder, options, step):
    model = load_model(reference / folder / "checkpoint.pth.tar", device="cpu", **options)
    path = tmp_path / "model.onnx"
    export_model(model, path, dynamic=ALL)
    for batch, height, width in ((1, 3 * step, 3 * step), (2, 2 * step, 5 * step)):
        pixels = _pixels(batch, height, width)
        _assert_same(_run(path, pixels), _expected(model, pixels))


def test_dropping_tokens_from_block_to_block_needs_a_size(reference, tmp_path):
    model = load_model(reference / "radio1d_progressive" / "checkpoint.pth.tar", device="cpu")
    with pytest.raises(ValueError, match="drops tokens from block to block.* an export needs a size"):
        export_model(model, tmp_path / "model.onnx", dynamic=ALL)
    assert not list(tmp_path.iterdir())
