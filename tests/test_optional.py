"""A missing extra is answered with a command that installs it, from wherever this library came."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from radio import MissingExtraError
from radio.optional import install_command, require

ROOT = Path(__file__).parent.parent


def test_in_a_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("text") == "pip install '.[text]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("text") == f"pip install '{ROOT}[text]'"


def test_the_error_names_the_package_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(MissingExtraError, match=r"'no_such_package'.*: pip install '\.\[video\]'"):
        require("no_such_package", "video")


def test_onnxruntime_reports_nothing(tmp_path: Path) -> None:
    """It keeps what it will send in a data base in the user's cache, from the moment that it is imported."""
    pytest.importorskip("onnxruntime")
    code = "from radio.optional import require; require('onnxruntime', 'onnxruntime')"
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "name", "value"),
    [
        ("onnxruntime", "ORT_DISABLE_TELEMETRY", "1"),
        ("ray", "RAY_USAGE_STATS_ENABLED", "0"),
        ("nncf", "NNCF_CI", "1"),
    ],
)
def test_no_package_reports_unless_the_user_wants_it(
    package: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radio.optional.import_module", lambda module: module)
    monkeypatch.setenv(name, "the user's")
    require(f"{package}.part", "extra")
    assert os.environ[name] == "the user's"
    monkeypatch.delenv(name)
    require(package, "extra")
    assert os.environ[name] == value


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            {"url": "https://example.org/radio.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            "pip install 'radio-vision[video] @ git+https://example.org/radio.git'",
        ),
        (
            {"url": "file:///clones/radio", "dir_info": {}},
            "pip install 'radio-vision[video] @ file:///clones/radio'",
        ),
        (None, "pip install 'av>=17.1' 'numpy'"),
    ],
    ids=["git", "folder", "index"],
)
def test_as_an_installed_package(tmp_path: Path, origin: dict | None, command: str) -> None:
    """As pip leaves it in site-packages: without pyproject.toml, with what pip wrote about its origin."""
    shutil.copytree(ROOT / "radio", tmp_path / "radio", ignore=shutil.ignore_patterns("__pycache__"))
    record = tmp_path / "radio_vision-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: radio-vision\nVersion: 0.1.0\nRequires-Dist: torch>=2.6\n"
        "Provides-Extra: video\nRequires-Dist: av>=17.1; extra == 'video'\n"
        "Requires-Dist: numpy; python_version >= '3.10' and extra == \"video\"\n"
    )
    if origin is not None:
        (record / "direct_url.json").write_text(json.dumps(origin))
    code = "from radio.optional import install_command; print(install_command('video'))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert run.stdout.strip() == command, run.stderr


def test_every_extra_that_the_code_names_exists() -> None:
    import re

    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = pyproject.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) =", table, re.MULTILINE))
    named = {
        extra
        for file in (ROOT / "radio").rglob("*.py")
        for extra in re.findall(r'require\("[\w.]+", "(\w+)"\)', file.read_text(encoding="utf-8"))
    }
    assert named and named <= extras
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert "'radio[" not in text
        for listed in re.findall(r"pip install '(?:radio-vision|\.)\[([\w,]+)\]", text):
            assert set(listed.split(",")) <= extras, page
