"""Outputs appear whole and take nobody's place; inputs are regular files."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from unicodedata import normalize

import pytest
import torch

from radio.data.tensor_files import load_tensors, save_tensors
from radio.files import Outputs, atomic_write, new_folder, open_regular, staging


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "out.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        assert not target.exists() and temporary.parent == target.parent
    assert target.read_text() == "half" and _names(target.parent) == ["out.txt"]
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("other")
        raise RuntimeError
    assert target.read_text() == "half" and _names(target.parent) == ["out.txt"]


def test_permissions_are_those_of_a_new_file_or_of_the_one_that_is_replaced(tmp_path):
    target, plain = tmp_path / "out", tmp_path / "plain"
    plain.touch()
    with atomic_write(target) as temporary:
        temporary.write_text("1")
    assert target.stat().st_mode == plain.stat().st_mode
    target.chmod(0o600)
    with atomic_write(target) as temporary:
        temporary.write_text("2")
    assert target.stat().st_mode & 0o777 == 0o600 and target.read_text() == "2"


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    """Whatever the writer does: safetensors 0.8 makes files that only their owner can read."""
    from radio import load_model

    (tmp_path / "new.txt").touch()
    usual = (tmp_path / "new.txt").stat().st_mode
    with atomic_write(tmp_path / "a.bin") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    with new_folder(tmp_path / "made") as folder:
        (folder / "b.bin").touch(mode=0o600)
    load_model(Path(__file__).parent / "reference" / "hf_repo", device="cpu").save_pretrained(
        tmp_path / "saved"
    )
    files = [tmp_path / "a.bin", tmp_path / "made" / "b.bin", *(tmp_path / "saved").iterdir()]
    assert {file.name: file.stat().st_mode for file in files} == {file.name: usual for file in files}


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    target = tmp_path / ("x" * 251 + ".png")
    with atomic_write(target) as temporary:
        temporary.write_text("long")
    assert target.read_text() == "long"


@pytest.mark.parametrize(
    "kind", ["same", "other spelling", "hard link", "symbolic link", "in a folder", "a model's"]
)
def test_an_input_is_never_replaced(kind, tmp_path):
    source = tmp_path / "in.png"
    source.write_text("precious")
    inputs: list = [source, None, "radio_v2.5-l", "x" * 5000, "a\0b"]
    target = source
    if kind == "other spelling":
        (tmp_path / "sub").mkdir()
        target = tmp_path / "sub" / ".." / "in.png"
    elif kind == "hard link":
        target = tmp_path / "link.png"
        target.hardlink_to(source)
    elif kind == "symbolic link":
        target = tmp_path / "link.png"
        target.symlink_to(source)
    elif kind == "in a folder":
        inputs = [tmp_path]
    elif kind == "a model's":
        inputs = [tmp_path / "config.json"]
    outputs = Outputs(inputs)
    with pytest.raises(ValueError, match="is an input"):
        outputs.check(target)
    with pytest.raises(ValueError, match="is an input"), outputs.write(target) as temporary:
        temporary.write_text("lost")
    assert source.read_text() == "precious" and not list(tmp_path.glob(".radio*"))


def test_an_output_that_becomes_an_input_while_it_is_written_is_not_replaced(tmp_path):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_text("precious")
    outputs = Outputs([source])
    with pytest.raises(ValueError, match="is an input"), outputs.write(target) as temporary:
        temporary.write_text("lost")
        target.hardlink_to(source)
    assert target.read_text() == "precious" and _names(tmp_path) == ["in.png", "out.png"]


def test_an_output_is_written_once(tmp_path):
    outputs = Outputs()
    with outputs.write(tmp_path / "a.png") as temporary:
        temporary.write_text("first")
    (tmp_path / "A.png").hardlink_to(tmp_path / "a.png")  # what a file system that ignores case shows
    for again in ("a.png", "A.png"):
        with (
            pytest.raises(ValueError, match="was written by this run"),
            outputs.write(tmp_path / again) as temporary,
        ):
            temporary.write_text("second")
    assert (tmp_path / "a.png").read_text() == "first"
    with pytest.raises(ValueError, match="would be written twice"):
        outputs.check(tmp_path / "b", tmp_path / "c" / ".." / "b")
    with Outputs().write(tmp_path / "a.png") as temporary:
        temporary.write_text("another run")
    assert (tmp_path / "a.png").read_text() == "another run"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_not_followed_silently(dangling, tmp_path):
    place = tmp_path / "elsewhere.txt"
    if not dangling:
        place.write_text("precious")
    link = tmp_path / "out.txt"
    link.symlink_to(place)
    with pytest.raises(OSError, match="symbolic link"), atomic_write(link) as temporary:
        temporary.write_text("lost")
    assert link.is_symlink() and place.exists() is not dangling
    (tmp_path / "folder").mkdir()
    (tmp_path / "to folder").symlink_to(tmp_path / "folder")
    with atomic_write(tmp_path / "to folder" / "x") as temporary:
        temporary.write_text("a folder may be a link")
    assert (tmp_path / "folder" / "x").exists()


def _make(kind: str, path: Path) -> None:
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["FIFO", "folder", "socket", "device"])
def test_only_regular_files_are_read(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.safetensors"
    _make(kind, path)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(path)
    with pytest.raises(OSError, match="not a regular file"):
        load_tensors(path)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "socket"])
def test_only_regular_files_are_replaced(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "out.png"
    _make(kind, path)
    with pytest.raises(OSError, match="not a regular file"), atomic_write(path) as temporary:
        temporary.write_text("lost")
    assert not path.is_file() and _names(tmp_path) == ["out.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected for root")
def test_a_write_protected_file_is_kept(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("precious")
    target.chmod(0o444)
    with pytest.raises(PermissionError), atomic_write(target):
        pass


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path):
    """The limit on a file's size stands for a full disk: writing fails in the middle."""
    code = (
        "import resource, sys, torch\n"
        "from radio.data.tensor_files import save_tensors\n"
        "from radio.files import atomic_write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with atomic_write(sys.argv[1]) as temporary:\n"
        "        save_tensors(temporary, {'x': torch.zeros(1_000_000)})\n"
        "except OSError as error:\n"
        "    print('told:', error)\n"
    )
    target = tmp_path / "out.safetensors"
    target.write_text("older")
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("told: cannot write"), done
    assert target.read_text() == "older" and _names(tmp_path) == ["out.safetensors"]


def test_a_write_that_fails_names_the_output(tmp_path):
    with pytest.raises(OSError) as error, atomic_write(tmp_path / "out.npz"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "out.npz") and _names(tmp_path) == []


_SLOW_WRITER = """
import pathlib, signal, sys, time
from radio import cli
from radio.cli import models
from radio.files import atomic_write, staging

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored

def run(args):
    target = pathlib.Path(sys.argv[1])
    with atomic_write(target) as temporary, staging(target.parent, "saving") as folder:
        temporary.write_text("half")
        (folder / "half").write_text("half")
        print("writing", flush=True)
        time.sleep(60)

models.run = run
sys.exit(cli.main(["models"]))
"""


@pytest.mark.parametrize("times", [1, 3])  # the terminal and a parent process may both pass it on
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_leaves_no_temporary_file(name, code, times, tmp_path):
    target = tmp_path / "out.txt"
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_WRITER, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup has it ignored by all below
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    assert len(_names(tmp_path)) == 2
    for _ in range(times):
        process.send_signal(getattr(signal, name))
        time.sleep(0.001)
    try:
        _, errors = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:  # Python drops what a handler raises while it runs a finalizer
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=30)
    late = times > 1 and process.returncode == -getattr(signal, name)  # when all was done
    assert process.returncode == code or late
    assert errors.startswith("radio: interrupted\n")
    assert _names(tmp_path) == []


def test_an_interrupt_at_any_moment_leaves_no_temporary_file(tmp_path):
    """KeyboardInterrupt at each line of the writer in turn, also while it cleans up after an earlier failure."""

    def interrupted_at(line: int, fail: bool) -> bool:
        seen = 0

        def trace(frame, event, argument):
            nonlocal seen
            if frame.f_code.co_filename.endswith("radio/files.py") and event == "line":
                seen += 1
                if seen == line:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        try:
            sys.settrace(trace)
            with atomic_write(tmp_path / "out.txt") as temporary:
                temporary.write_text("half")
                if fail:
                    raise OSError("disk full")
        except (KeyboardInterrupt, OSError):
            pass
        finally:
            sys.settrace(None)
        return seen >= line

    for fail in (False, True):
        line = 1
        while interrupted_at(line, fail):
            assert _names(tmp_path) in ([], ["out.txt"]), f"line {line}, fail={fail}"
            line += 1
        assert line > 10


def test_an_interrupt_at_any_moment_leaves_no_hidden_folder(tmp_path):
    """At each line of the staging and of the removal in turn."""

    def interrupted_at(line: int) -> bool:
        seen = 0

        def trace(frame, event, argument):
            nonlocal seen
            if frame.f_code.co_filename.endswith(("radio/files.py", "shutil.py")) and event == "line":
                seen += 1
                if seen == line:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        try:
            sys.settrace(trace)
            with staging(tmp_path, "saving") as place:
                (place / "half").write_text("half")
        except (KeyboardInterrupt, OSError):  # shutil closes a folder twice when it is interrupted in between
            pass
        finally:
            sys.settrace(None)
        return seen >= line

    line = 1
    while interrupted_at(line):
        assert _names(tmp_path) == [], f"line {line}"
        line += 1
    assert line > 20


def test_threads_write_side_by_side(tmp_path):
    def write(number: int) -> None:
        with atomic_write(tmp_path / f"{number}.txt") as temporary:
            temporary.write_text(str(number))
            time.sleep(0.01)

    before = os.umask(0o077)
    try:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.umask(before)
    assert len(_names(tmp_path)) == 8
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_tensor_files(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"x": torch.arange(3)}, {"kind": "test"})
    assert load_tensors(path)["x"].tolist() == [0, 1, 2]
    path.write_text("no tensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_tensors(path)


def test_names_that_some_file_systems_take_for_one(tmp_path):
    from radio.cli.pca import _names as names

    paths = [Path(normalize("NFC", "é.png")), Path(normalize("NFD", "é.png")), Path("A.png"), Path("b/a.png")]
    found = names(paths)
    assert len({normalize("NFC", name).casefold() for name in found}) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected for root")
def test_a_write_protected_folder_is_refused_before_any_work(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="write-protected") as told:
        Outputs().check(tmp_path / "new" / "out.png")
    assert told.value.filename == str(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which even root makes no file")
def test_what_cannot_be_written_is_called_by_its_name():
    with pytest.raises(OSError) as told, atomic_write("/proc/out.png"):
        pass
    assert told.value.filename == "/proc/out.png"
