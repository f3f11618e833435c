"""Results of `radio extract` can be searched by image, by text, by column, exactly and approximately."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from radio import RADIOModel, load_model
from radio.cli import main
from radio.extraction import ExtractionOptions, extract
from radio.extraction.plan import Run
from radio.extraction.storage import Folder
from radio.search import SearchIndex, build_index, contact_sheet


@pytest.fixture(scope="module")
def model(reference: Path) -> RADIOModel:
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["clip", "siglip"], device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(30):
        pixels = random.integers(0, 256, (2 + number % 3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48 + number, 48), Image.Resampling.BICUBIC).save(
            folder / f"{number:02d}.png"
        )
    (folder / "bad.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def shards(data: Path, model: RADIOModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "out"
    extract(data, model, folder, ExtractionOptions(size="48x48", rows_per_shard=8))
    return folder


@pytest.fixture(scope="module")
def index(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return build_index(shards, tmp_path_factory.mktemp("index") / "i.lancedb")


def test_the_image_itself_is_found_first(data: Path, index: SearchIndex, model: RADIOModel) -> None:
    assert len(index) == 30
    assert index.size == "48x48"
    assert index.approximate == []
    encoding = model.encode(data / "07.png", size=index.size)
    for column, vector in (("summary", encoding.summary[0]), ("clip", encoding.adaptors["clip"].summary[0])):
        found = index.search(vector, 3, column)
        assert found[0].path == str(data / "07.png")
        assert found[0].score == pytest.approx(1, abs=1e-4)
        assert found[0].score >= found[1].score >= found[2].score
        assert (found[0].row["width"], found[0].row["status"]) == (55, "ok")


def test_what_is_no_index_or_a_damaged_one_is_told(
    shards: Path, index: SearchIndex, model: RADIOModel, tmp_path: Path
) -> None:
    vector = model.encode(np.zeros((48, 48, 3), np.uint8)).summary[0]
    lancedb.connect(tmp_path / "foreign").create_table("images", data=[{"vector": [1.0, 2.0]}])
    with pytest.raises(ValueError, match="not from 'radio index'"):
        SearchIndex(tmp_path / "foreign")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a 'b\n.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged, or none; make it again"):
        SearchIndex(tmp_path / "folder")
    shutil.copytree(index.place, tmp_path / "cut")
    for file in (tmp_path / "cut").rglob("data/*.lance"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged, or none; make it again"):
        SearchIndex(tmp_path / "cut").search(vector)
    with pytest.raises(ValueError, match="would lie among the shards"):
        build_index(shards, shards / "deeper" / "radio.lancedb")
    large, small = index.search(vector * 1e30, 3), index.search(vector, 3)
    assert [match.id for match in large] == [match.id for match in small]
    assert large[0].score == pytest.approx(small[0].score, abs=1e-4)


def test_scores_are_those_of_an_exact_search(shards: Path, index: SearchIndex) -> None:
    table = pd.read_parquet(shards).dropna(subset="summary")
    matrix = F.normalize(torch.tensor(np.stack(table.summary.to_numpy())), dim=1)
    scores = matrix @ matrix[5]
    found = index.search(matrix[5] * 3, 30)
    assert [match.id for match in found] == list(table.id.iloc[scores.argsort(descending=True).numpy()])
    torch.testing.assert_close(
        torch.tensor([match.score for match in found]), scores.sort(descending=True).values, atol=1e-4, rtol=0
    )


def test_conditions_on_columns(index: SearchIndex) -> None:
    vector = np.ones(index.vectors["summary"])
    found = index.search(vector, 30, where="width >= 70 and path like '%.png'")
    assert len(found) == 8
    assert all(match.row["width"] >= 70 for match in found)
    assert index.search(vector, where="width > 10000") == []
    with pytest.raises(
        ValueError, match=r"the condition 'depth > 3' cannot be used .*columns: id, path, height"
    ):
        index.search(vector, where="depth > 3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": "sam"}, "unknown column 'sam'; this index has: summary, clip, siglip"),
        ({"vector": np.ones(3)}, r"finite numbers, not all zero, got shape \(3,\)"),
        ({"vector": np.zeros(192)}, "not all zero"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_wrong_queries(index: SearchIndex, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index.search(**{"vector": np.ones(index.vectors["summary"]), **arguments})


def test_an_approximate_index_finds_nearly_all(tmp_path: Path) -> None:
    """Vectors in clusters, as features are; twenty queries that are not among them."""
    random = np.random.default_rng(0)
    basis = random.normal(size=(24, 96))
    codes = random.normal(size=(40, 24))[random.integers(0, 40, 4020)] + 0.6 * random.normal(size=(4020, 24))
    vectors = np.float32(codes @ basis)
    stored, queries = vectors[:4000], vectors[4000:]
    notes = {"model": {"vectors": {"summary": 96}}, "options": {"size": None}}
    columns = {
        "id": pa.array([str(number) for number in range(4000)]),
        "path": pa.array(["x"] * 4000),
        "summary": pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), 96),
    }
    table = pa.table(columns).replace_schema_metadata({b"radio": json.dumps(notes).encode()})
    made = lancedb.connect(tmp_path / "i").create_table("images", data=table)
    made.create_index("summary", config=lancedb.index.IvfSq(distance_type="cosine"))
    index = SearchIndex(tmp_path / "i")
    assert index.approximate == ["summary"]
    found = [{match.id for match in index.search(query)} for query in queries]
    exact = [{match.id for match in index.search(query, exact=True)} for query in queries]
    recall = np.mean([len(one & other) / 10 for one, other in zip(found, exact, strict=True)])
    assert recall > 0.95


def test_half_precision_vectors(data: Path, model: RADIOModel, tmp_path: Path) -> None:
    extract(data, model, tmp_path / "out", ExtractionOptions(size=48, summary_dtype="float16"))
    index = build_index(tmp_path / "out", tmp_path / "i", approximate=False)
    encoding = model.encode(data / "03.png", size=48)
    assert index.search(encoding.summary[0], 1)[0].id == str(data / "03.png")


def test_an_index_replaces_the_one_before(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = tmp_path / "part"
    shutil.copytree(shards, part)
    (part / "shard-00001-of-00004.parquet").unlink()
    assert len(build_index(part, tmp_path / "i")) == 22
    assert "has 3 of 4 shards" in caplog.text
    assert len(build_index(shards, tmp_path / "i")) == 30


def test_what_is_no_index_or_no_result_is_named(tmp_path: Path, model: RADIOModel) -> None:
    with pytest.raises(ValueError, match="there is no index at .*; make one: radio index"):
        SearchIndex(tmp_path / "nothing")
    with pytest.raises(ValueError, match="has no results of 'radio extract'"):
        build_index(tmp_path, tmp_path / "i")
    (tmp_path / "bad.png").write_text("x")
    extract(tmp_path / "bad.png", model, tmp_path / "failed")
    with pytest.raises(ValueError, match="all rows of .* failed; there is nothing to search"):
        build_index(tmp_path / "failed", tmp_path / "i")
    assert Run.load(Folder(tmp_path / "failed")).vectors["summary"] == model.summary_dim


def test_a_contact_sheet_of_what_is_left(index: SearchIndex, tmp_path: Path) -> None:
    matches = index.search(np.ones(index.vectors["summary"]), 7)
    picture = contact_sheet(matches, "seven")
    assert picture.width > 5 * 384
    gone = contact_sheet([*matches[:1], type(matches[0])("x", str(tmp_path / "gone.png"), 0.5, {})])
    assert gone.height < picture.height
    with pytest.raises(ValueError, match="nothing was found"):
        contact_sheet([])


def test_the_commands(
    data: Path,
    shards: Path,
    text_towers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["index", str(shards)]) == 0
    assert "wrote radio.lancedb: 30 images, exact search by summary, clip, siglip" in capsys.readouterr().out
    query = str(data / "11.png")
    assert (
        main(["search", "--image", query, "--top", "3", "-o", "sheets/s.png", "--where", "width < 70"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["1", "1.0000", query]
    with Image.open("sheets/s.png") as sheet:
        assert sheet.width > 3 * 224
    texts = [
        "search",
        "--text",
        "a red bicycle",
        "--text-weights",
        str(text_towers["clip"]),
        "--adaptor",
        "clip",
    ]
    assert main([*texts, "--json", "--exact", "--index", "radio.lancedb"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["column"] == "clip"
    assert len(found["matches"]) == 10
    assert {"id", "path", "score", "height", "width", "grid"} <= set(found["matches"][0])
    best = found["matches"][0]
    model = load_model(_source(shards), adaptors=["clip"], text_weights=text_towers["clip"], device="cpu")
    text = model.adaptors["clip"].encode_text(["a red bicycle"])
    image = model.encode(best["path"], size="48x48").adaptors["clip"].summary
    assert best["score"] == pytest.approx(float(F.cosine_similarity(text, image)), abs=1e-3)


def _source(shards: Path) -> str:
    return json.loads((shards / ".radio" / "run.json").read_text())["source"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "gone.png"], "there is no image file 'gone.png'"),
        (["--image", "{image}", "--adaptor", "sam"], "unknown adaptor 'sam'; the index has: clip, siglip"),
        (["--image", "{image}", "-m", "{other}"], "extracted with other weights"),
        (["--image", "{image}", "-o", "{image}"], "is an input of this command"),
        (["--image", "{image}", "--index", "nowhere"], "there is no index at 'nowhere'"),
    ],
)
def test_failures_of_the_command(
    arguments: list[str],
    message: str,
    data: Path,
    index: SearchIndex,
    reference: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"image": str(data / "11.png"), "other": str(reference / "spectral" / "checkpoint.pth.tar")}
    filled = [each.format(**names) for each in arguments]
    assert main(["search", "--index", index.place, *filled]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
