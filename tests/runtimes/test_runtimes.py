"""Models in OpenVINO and ONNX Runtime: the same calls as in PyTorch, and clear answers to what only PyTorch does."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from radio import load_model
from radio.cli import main
from radio.extraction import ExtractionOptions, extract
from radio.modeling.token_merging import InNetworkMerging, TokenMerging
from radio.runtimes.onnx_runtime import OnnxRuntime

ADAPTORS = ["clip", "sam"]


@pytest.fixture(scope="module")
def path(reference: Path) -> Path:
    return reference / "v2_5" / "checkpoint.pth.tar"


@pytest.fixture(scope="module")
def plain(path):
    return load_model(path, ADAPTORS, device="cpu")


@pytest.fixture(scope="module")
def model(path, graphs):
    return load_model(path, ADAPTORS, runtime="openvino")


def _assert_close(actual, expected, tolerance: float = 1e-4) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("size", [(1, 16, 16), (1, 16, 160), (3, 48, 16), (2, 272, 304)])
def test_every_size_down_to_one_patch(model, plain, size):
    batch, height, width = size
    x = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actual, expected = model(x), plain(x)
    assert list(actual) == ["backbone", *ADAPTORS]
    for name, output in expected.items():
        _assert_close(actual[name].summary, output.summary)
        _assert_close(actual[name].features, output.features)


def test_the_model_says_what_it_is(model, plain):
    assert (model.runtime, plain.runtime) == ("openvino", "pytorch")
    assert (model.device, model.dtype, model.training) == (torch.device("cpu"), torch.float32, False)
    assert next(model.parameters()).dtype == torch.float32
    assert model.config == plain.config and model.summary_dim == plain.summary_dim
    assert "runtime='openvino'" in repr(model)


def test_encode_takes_images_of_any_kind_merges_and_normalizes(model, plain, photos):
    images = [photos[0], Image.new("RGB", (70, 50)), torch.rand(3, 64, 96)]
    merge = TokenMerging(keep=6)
    for options in ({"size": 64}, {"size": 64, "normalize": True, "merge": merge}):
        for actual, expected in zip(
            model.encode(images, **options), plain.encode(images, **options), strict=True
        ):
            _assert_close(actual.summary, expected.summary)
            _assert_close(actual.features, expected.features)
            _assert_close(actual.adaptors["clip"].summary, expected.adaptors["clip"].summary)


def test_adaptors_and_the_preprocessor_come_off_as_in_pytorch(path, plain):
    model = load_model(path, ADAPTORS, runtime="openvino")
    x = torch.rand(1, 3, 32, 48)
    model.adaptors = None
    conditioner = model.make_preprocessor_external()
    with torch.no_grad():
        _assert_close(model(conditioner(x)).summary, plain(x)["backbone"].summary)


def test_bfloat16_has_the_same_graph(path, plain, graphs):
    before = sorted(graphs.iterdir())
    model = load_model(path, ADAPTORS, dtype="bfloat16", runtime="openvino")
    assert sorted(graphs.iterdir()) == before and model.dtype == torch.bfloat16
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        output = model(x)
        assert output["backbone"].features.dtype == torch.bfloat16
        _assert_close(output["backbone"].features.float(), plain(x)["backbone"].features, 3e-2)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_int8_is_near_and_the_same_images_find_the_same_graph(runtime, path, plain, photos, graphs):
    small = [photos[0], photos[1]]
    model = load_model(path, ADAPTORS, runtime=runtime, calibration=small)
    before = sorted(graphs.iterdir())
    load_model(path, runtime=runtime, calibration=small)
    assert sorted(graphs.iterdir()) == before
    exact, fast = (each.encode(photos[2], size=(96, 160)) for each in (plain, model))
    assert not torch.equal(exact.features, fast.features)
    for a, b in ((exact.features, fast.features), (exact.summary, fast.summary)):
        assert torch.nn.functional.cosine_similarity(a, b, dim=-1).mean() > 0.98


def test_calibration_needs_images_and_a_runtime(path):
    with pytest.raises(ValueError, match="calibration= makes an int8 graph for runtime='openvino'"):
        load_model(path, calibration=["photo.jpg"])
    with pytest.raises(ValueError, match="calibration= is a list of images like those to come"):
        load_model(path, runtime="openvino", calibration=[])


def test_what_only_pytorch_does_is_refused_and_changes_nothing(model, plain, tmp_path):
    x = torch.rand(1, 3, 32, 32)
    calls = {
        "stays on the CPU and in its dtype; load the model with runtime='pytorch'": [
            lambda: model.to("cuda"),
            lambda: model.to("meta"),
            model.half,
            model.double,
        ],
        "cannot be trained": [model.train],
        "no intermediate layers": [lambda: model.forward_intermediates(x)],
        "merge tokens inside the network": [lambda: model(x, tome=InNetworkMerging(r=1))],
        "no weights to write": [lambda: model.save_pretrained(tmp_path / "saved")],
        "no blocks to change": [lambda: model.set_drop_path(0.1)],
    }
    for message, asked in calls.items():
        for call in asked:
            with pytest.raises(ValueError, match=message):
                call()
    with pytest.raises(
        RuntimeError, match="OpenVINO computes no gradients; load the model with runtime='pytorch'"
    ):
        model(x.requires_grad_())
    with pytest.raises(TypeError, match="cannot be copied or pickled; load it again"):
        copy.deepcopy(model)
    with pytest.raises(AttributeError, match="no 'blocks'; load the model with runtime='pytorch'"):
        _ = model.backbone.blocks
    model.window_size = 2
    try:
        with pytest.raises(ValueError, match="load it again with another vitdet_window_size"):
            model(x.detach())
    finally:
        model.window_size = None
    assert not list(tmp_path.iterdir())
    assert not model.training and model.input_conditioner.norm_mean.dtype == torch.float32
    with torch.no_grad():
        _assert_close(model.eval().to("cpu").float()(x)["clip"].summary, plain(x)["clip"].summary)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"runtime": "tensorrt"},
            "unknown runtime 'tensorrt'; allowed: auto, pytorch, openvino, onnxruntime",
        ),
        ({"runtime": "openvino", "device": "cuda"}, "runs on the CPU, not on 'cuda'"),
        ({"runtime": "openvino", "dtype": "float16"}, "computes in float32 or bfloat16, not in float16"),
        ({"runtime": "onnxruntime", "dtype": "bfloat16"}, "computes in float32, not in bfloat16"),
    ],
)
def test_choices_that_a_runtime_does_not_have(path, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(path, **options)


def test_a_bfloat16_checkpoint_is_float32_in_onnx_runtime():
    from radio.runtimes import runtime_dtype

    assert runtime_dtype(OnnxRuntime(), "auto", torch.bfloat16) == torch.float32


def test_threads_share_a_model(model):
    images = [torch.rand(1, 3, 32, 16 * n) for n in (1, 2, 3, 4)]
    with torch.no_grad():
        expected = [model(x)["backbone"].features for x in images]
    wrong: list[int] = []

    def run(n: int) -> None:
        with torch.no_grad():
            if not all(torch.equal(model(images[n])["backbone"].features, expected[n]) for _ in range(10)):
                wrong.append(n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_graph_with_a_damaged_file_is_made_anew(model, path, graphs, monkeypatch):
    from radio.runtimes import cache

    (place,) = graphs.glob("openvino-*")
    made: list[Path] = []

    def make(folder: Path) -> dict:
        made.append(folder)
        (folder / "graph.bin").write_bytes(b"weights")
        return {"outputs": []}

    first = cache.graph_folder("test", {"a": 1}, make)
    assert cache.graph_folder("test", {"a": 1}, make) == first and len(made) == 1
    assert cache.graph_folder("test", {"a": 2}, make) != first and len(made) == 2
    (first / "graph.bin").write_bytes(b"we")
    assert cache.graph_folder("test", {"a": 1}, make) == first and len(made) == 3
    assert (first / "graph.bin").read_bytes() == b"weights"
    left = graphs / f".{first.name}-left"
    left.mkdir()
    (first / "graph.json").unlink()
    with pytest.raises(RuntimeError, match="stopped"):
        cache.graph_folder("test", {"a": 1}, _stop)
    assert not first.exists() and not left.exists()
    assert [file.name for file in graphs.glob(f".{first.name}*")] == [f".{first.name}.lock"]
    assert place.exists()


def _stop(folder: Path) -> dict:
    (folder / "half").write_bytes(b"")
    raise RuntimeError("stopped")


@pytest.mark.slow
def test_processes_that_ask_at_once_make_one_graph(tmp_path):
    code = (
        "import time, sys\n"
        "from radio.runtimes.cache import graph_folder\n"
        "def make(folder):\n"
        "    time.sleep(0.3)\n"
        "    (folder / 'graph').write_text('x' * 1000)\n"
        "    print('made')\n"
        "    return {}\n"
        "print(len((graph_folder('test', {}, make) / 'graph').read_text()))\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    printed = [process.communicate(timeout=100)[0].split() for process in started]
    assert sorted(printed) == [["1000"], ["1000"], ["made", "1000"]]


def test_a_cache_that_cannot_be_written_says_what_to_do(path, tmp_path, monkeypatch):
    (tmp_path / "radio").write_text("a file where a folder belongs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(OSError, match="set XDG_CACHE_HOME to a folder"):
        load_model(path, runtime="openvino")


def test_commands_and_extraction_take_a_runtime(model, plain, path, photos, tmp_path):
    written = tmp_path / "photo.safetensors"
    chosen = ["-m", str(path), "--adaptor", "clip", "--runtime", "openvino", "--size", "64"]
    main(["features", *chosen, str(photos[0]), "-o", str(written)])
    expected = plain.encode(photos[0], size=64).adaptors["clip"].summary
    assert any(
        value.shape[-1] == 40 and torch.allclose(value.reshape(1, -1), expected, atol=1e-4)
        for value in load_file(written).values()
        if value.numel() == 40
    )
    options = ExtractionOptions(size=64)
    assert extract(photos[:2], model, tmp_path / "rows", options).ok == 2
    facts = json.loads((tmp_path / "rows" / ".radio" / "run.json").read_text())["model"]
    assert facts["runtime"] == "openvino"
    with pytest.raises(ValueError, match="runtime was 'openvino'"):
        extract(photos[:2], plain, tmp_path / "rows", options)


def test_loading_a_model_imports_no_runtime_and_no_compiler(path):
    code = (
        f"import sys; from radio import load_model; load_model({str(path)!r}, device='cpu')\n"
        "print({'torch._dynamo', 'openvino', 'onnxruntime', 'onnx', 'nncf'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
