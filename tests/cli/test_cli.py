"""The `radio` command, as a user types it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import radio
from radio import load_model
from radio.cli import COMMANDS, main


@pytest.fixture
def checkpoint(reference: Path) -> str:
    return str(reference / "v2_5" / "checkpoint.pth.tar")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds weights that happen to be on this machine, and none waits for a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "radio", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_answers_at_once_and_lists_every_command() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = _shell("--help")
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0
    assert all(name in done.stdout and summary.split()[0] in done.stdout for name, _, summary in COMMANDS)
    assert min(seconds) < 0.5
    heavy = (
        "import sys, radio.cli; radio.cli._parser([]); print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).strip() == "set()"


@pytest.mark.parametrize("name", [name for name, _, _ in COMMANDS])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: radio {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["features"], ["info"], ["models", "--nonsense"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: radio" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"radio {radio.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "radio_v9"], "unknown version 'radio_v9'"),
        (["info", "no/such/file.pth.tar"], "no file or folder"),
        (["info", "pyproject.toml"], "pyproject.toml"),
        (["info", "owner/name"], "not on this machine"),
        (["features", "missing.jpg", "-m", "CHECKPOINT", "-o", "OUT.npz"], "no image file 'missing.jpg'"),
        (["features", "PHOTO", "-m", "radio_v2.5-b", "-o", "OUT.npz"], "radio-v2.5-b_half.pth.tar"),
        (
            ["features", "PHOTO", "-m", "CHECKPOINT", "-o", "OUT.jpg"],
            "allowed: .safetensors, .npz, or a folder",
        ),
        (["features", "PHOTO", "-m", "CHECKPOINT", "-o", "OUT.npz", "--size", "500x512"], "multiples of 16"),
        (["features", "PHOTO", "-m", "CHECKPOINT", "-o", "OUT.npz", "--adaptor", "x"], "unknown adaptor 'x'"),
        (["convert", "missing.pth.tar", "OUT"], "no file or folder"),
    ],
)
def test_failures_are_one_line_and_1(
    arguments: list[str],
    message: str,
    checkpoint: str,
    photos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"CHECKPOINT": checkpoint, "PHOTO": str(photos[0])}
    filled = [names.get(a, a.replace("OUT", str(tmp_path / "out"))) for a in arguments]
    assert main(filled) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith(f"radio {arguments[0]}: error: ")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "a failure leaves nothing behind"


@pytest.mark.parametrize("arguments", [["--debug", "info", "radio_v9"], ["info", "radio_v9", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_exit_codes_reach_the_shell() -> None:
    failed = _shell("info", "radio_v9")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert _shell("info").returncode == 2


def test_output_can_be_cut_off() -> None:
    command = f"{sys.executable} -m radio models | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("version")
    assert done.stderr == ""


def test_models_lists_every_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["version", "parameters"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == {release.version for release in radio.RELEASES}
    assert "319.9M" in rows["radio_v2.5-l"]
    assert "clip, siglip, dino_v2, sam" in rows["radio_v2.5-l"]
    assert "non-commercial" in rows["radio_v2.5-l"]
    assert "commercial use allowed" in rows["c-radio_v3-b"]


def test_models_as_json_says_what_is_cached(capsys: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub import constants

    release = radio.RELEASES[0]
    repository = Path(constants.HF_HUB_CACHE) / f"models--{release.repository.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / release.filename).touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["version"] for row in rows if row["cached"]] == [release.version]
    assert rows[0]["adaptors"] == list(release.adaptors)


def test_info_of_a_file_a_folder_and_a_version(
    checkpoint: str, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", checkpoint, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = load_model(checkpoint)
    assert found["parameters"] == sum(p.numel() for p in model.model.parameters())
    assert found["summary_dim"] == model.summary_dim
    assert found["config"]["depth"] == len(model.blocks)
    assert [a["name"] for a in found["config"]["adaptors"]] == ["clip", "siglip", "dino_v2", "sam"]
    assert main(["info", str(reference / "hf_repo")]) == 0
    assert "Hub folder" in capsys.readouterr().out
    assert main(["info", "c-radio_v4-h"]) == 0
    text = capsys.readouterr().out
    assert "not on this machine" in text
    assert "siglip2-g, dino_v3, sam3" in text
    assert main(["info", "c-radio_v4-1d-h"]) == 0
    assert "1.5B" in capsys.readouterr().out


def test_info_lists_tensors(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", checkpoint, "--tensors"]) == 0
    assert "model.blocks.0.attn.qkv.weight  192x64  float32" in capsys.readouterr().out


def test_features_of_one_image_are_the_models(
    checkpoint: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out.safetensors"
    arguments = [str(photos[0]), "-m", checkpoint, "-o", str(out), "--size", "96x128", "--adaptor", "clip"]
    assert main(["features", *arguments]) == 0
    assert "features: 64x6x8" in capsys.readouterr().out
    expected = load_model(checkpoint, adaptors="clip").encode(photos[0], size=(96, 128), feature_fmt="NCHW")
    found = load_file(out)
    assert set(found) == {"summary", "features.0", "image_sizes", "clip.summary", "clip.features.0"}
    assert found["image_sizes"].tolist() == [[96, 128]]
    torch.testing.assert_close(found["summary"], expected.summary)
    torch.testing.assert_close(found["features.0"], expected.features[0])
    torch.testing.assert_close(found["clip.summary"], expected.adaptors["clip"].summary)
    torch.testing.assert_close(found["clip.features.0"], expected.adaptors["clip"].features[0])
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["checkpoint"] == checkpoint
    assert metadata["architecture"] == "vit_base_patch16_224"
    assert json.loads(metadata["images"]) == [str(photos[0])]
    assert [file.name for file in out.parent.iterdir()] == [out.name], "no temporary file is left"


def test_features_of_many_images_of_different_sizes(
    checkpoint: str, photos: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    folder = str(photos[0].parent)
    assert (
        main(["features", folder, "-m", checkpoint, "-o", str(out), "--size", "long:64", "--batch-size", "2"])
        == 0
    )
    encodings = load_model(checkpoint).encode(photos, size="long:64", feature_fmt="NCHW")
    with np.load(out) as found:
        metadata = json.loads(str(found["metadata"]))
        assert metadata["images"] == json.dumps([str(photo) for photo in photos])
        assert found["summary"].shape[0] == len(photos)
        for number, encoding in enumerate(encodings):
            assert found["image_sizes"][number].tolist() == list(encoding.image_size)
            np.testing.assert_allclose(found["summary"][number], encoding.summary[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                found[f"features.{number}"], encoding.features[0], rtol=1e-4, atol=1e-5
            )


def test_features_into_a_folder(checkpoint: str, photos: list[Path], tmp_path: Path) -> None:
    names = [str(photo) for photo in photos]
    arguments = [
        "-m",
        checkpoint,
        "-o",
        str(tmp_path / "all"),
        "--size",
        "64",
        "--summary-only",
        "--dtype",
        "bfloat16",
    ]
    assert main(["features", *names, *arguments]) == 0
    for photo in photos:
        found = load_file(tmp_path / "all" / f"{photo.stem}.safetensors")
        assert set(found) == {"summary", "image_sizes"}
        assert found["summary"].dtype == torch.float32, "NumPy has no bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bf16"])
@pytest.mark.parametrize("asked", [None, "float32", "float16", "bfloat16"])
def test_features_are_numbers_that_numpy_has_unless_asked_otherwise(
    dtype: str, asked: str | None, checkpoint: str, photos: list[Path], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file as load_arrays

    out = tmp_path / "out.safetensors"
    words = [
        str(photos[0]),
        "-m",
        checkpoint,
        "--size",
        "32",
        "--dtype",
        dtype,
        "--adaptor",
        "clip",
        "-o",
        str(out),
    ]
    assert main(["features", *words, *(["--output-dtype", asked] if asked else [])]) == 0
    expected = asked or ("float16" if dtype == "float16" else "float32")
    found = load_file(out)
    names = {
        str(value.dtype).removeprefix("torch.") for name, value in found.items() if name != "image_sizes"
    }
    assert names == {expected}
    if expected != "bfloat16":
        assert load_arrays(out)["clip.features.0"].dtype == expected
    words[-1] = str(tmp_path / "out.npz")
    code = main(["features", *words, *(["--output-dtype", asked] if asked else [])])
    assert code == (1 if asked == "bfloat16" else 0)
    if not code:
        assert np.load(tmp_path / "out.npz")["summary"].dtype == expected


@pytest.mark.parametrize("output", ["out.npz", "out"])
def test_unreadable_images_can_be_skipped(
    output: str, checkpoint: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    (folder / "b.jpg").write_bytes(photos[0].read_bytes())
    (folder / "c.png").write_bytes(photos[1].read_bytes()[:2000])
    out = tmp_path / output
    arguments = [
        "features",
        str(folder),
        "-m",
        checkpoint,
        "--size",
        "64",
        "--batch-size",
        "1",
        "-o",
        str(out),
    ]
    assert main(arguments) == 1
    assert not out.exists()
    assert main([*arguments, "--skip-unreadable"]) == 0
    printed = capsys.readouterr()
    assert "images: 1" in printed.out and "skipped: 2" in printed.out
    assert str(folder / "a.jpg") in printed.err and str(folder / "c.png") in printed.err
    if output == "out":
        assert [path.name for path in out.iterdir()] == ["b.safetensors"]
    else:
        saved = np.load(out, allow_pickle=False)
        assert saved["summary"].shape[0] == 1
        assert json.loads(json.loads(str(saved["metadata"]))["images"]) == [str(folder / "b.jpg")]
    (folder / "b.jpg").unlink()
    assert main([*arguments[:-1], str(tmp_path / f"new-{output}"), "--skip-unreadable"]) == 1
    assert "none of the images can be read" in capsys.readouterr().err
    assert not (tmp_path / f"new-{output}").exists()


def test_two_images_of_one_name_are_not_written_over_each_other(
    checkpoint: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    Image.open(photos[0]).save(tmp_path / "a" / photos[0].name)
    both = [str(photos[0]), str(tmp_path / "a" / photos[0].name)]
    assert main(["features", *both, "-m", checkpoint, "-o", str(tmp_path / "out")]) == 1
    assert "would both become" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_old_result_survives_a_failure(
    checkpoint: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("old")
    (tmp_path / "broken.jpg").write_bytes(photos[0].read_bytes()[:3000])
    assert main(["features", str(tmp_path / "broken.jpg"), "-m", checkpoint, "-o", str(out)]) == 1
    assert "broken.jpg" in capsys.readouterr().err
    assert out.read_text() == "old"


@pytest.mark.parametrize("name", ["v2_5", "bf16", "spectral", "hf_repo", "dinov2_giant", "no_cpe_patch14"])
def test_convert_gives_the_same_model(name: str, reference: Path, tmp_path: Path) -> None:
    source = reference / name
    source = source if (source / "config.json").exists() else source / "checkpoint.pth.tar"
    out = tmp_path / "converted"
    assert main(["convert", str(source), str(out)]) == 0
    before, after = load_model(source), load_model(out)
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert {a.name: a for a in before.config.adaptors}.keys() == {
        a.name: a for a in after.config.adaptors
    }.keys()
    names = [adaptor.name for adaptor in before.config.adaptors]
    before, after = load_model(source, adaptors=names), load_model(out, adaptors=names)
    assert after.dtype == before.dtype
    weights = after.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in before.state_dict().items())
    x = torch.rand(1, 3, 4 * before.patch_size, 4 * before.patch_size)
    # Copies, because matrix products may round differently where weights lie in a mapped file.
    found, expected = (_tensors(copy.deepcopy(model)(x)) for model in (after, before))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def _tensors(output: object) -> list[torch.Tensor]:
    return [*output] if isinstance(output, tuple) else [t for name in sorted(output) for t in output[name]]


def test_convert_does_not_replace_a_model_unasked(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", checkpoint, str(tmp_path)]) == 0
    assert main(["convert", checkpoint, str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", checkpoint, str(tmp_path), "--overwrite"]) == 0


def test_doctor_reports_versions_device_cache_and_hub(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--offline"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["radio"] == radio.__version__
    assert report["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert report["hub"]["reachable"] == "not tried"
    assert report["cache"]["versions in it"] == "none"
    assert main(["doctor", "--offline"]) == 0
    assert "used by default" in capsys.readouterr().out


def test_a_refused_export_makes_no_folder(checkpoint: str, tmp_path: Path) -> None:
    assert main(["export", checkpoint, "-o", str(tmp_path / "new" / "m.onnx"), "--size", "100"]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file/m.onnx", "folder.onnx"])
def test_an_output_that_cannot_be_written_is_named(
    place: str, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.onnx").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", checkpoint, "-o", str(tmp_path / place)]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / place.split("/")[0]) in message and "give" in message and "Errno" not in message
    assert sorted(tmp_path.rglob("*")) == before
