"""``radio view`` as a process: its address, its end, its errors."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from radio.cli import _parser, main
from radio.viewer.server import listen

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar"


def test_the_page_is_served_and_ends_with_an_interrupt(photos: list[Path]) -> None:
    command = [sys.executable, "-m", "radio", "view", str(photos[0]), "-m", str(TINY), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-browser", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address, "the address is said as soon as the page can be opened"
        with urllib.request.urlopen(address[0], timeout=30) as answer:
            assert b"radio viewer" in answer.read()
        asking = threading.Thread(target=ask_for_a_long_pass, args=(address[0],))
        asking.start()
        time.sleep(0.2)
    finally:
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    asking.join()
    assert time.monotonic() - started < 20
    assert process.returncode == 0
    assert errors.strip().splitlines() == ["viewer: ended"]


def ask_for_a_long_pass(address: str) -> None:
    """Ask for features at the largest size, and do not mind that the viewer ends."""

    def ask(path: str, method: str = "GET", **headers: str) -> bytes:
        request = urllib.request.Request(address + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    with suppress(OSError):
        session = json.loads(ask("api/session", "POST"))
        known = {"Radio-Session": session["session"]}
        [photo] = json.loads(ask("api/photos", **known))
        asked = {"model": session["models"][0]["name"], "photo": photo["id"], "size": 1024}
        ask(f"api/features?{urllib.parse.urlencode(asked)}", **known)


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["view", "-m", str(TINY), "--port", str(port), "--no-browser"]) == 1
    assert f"cannot listen on port {port}" in capsys.readouterr().err


def test_the_default_port_gives_way() -> None:
    with listen(None) as first, listen(None) as second:
        assert first.getsockname()[0] == second.getsockname()[0] == "127.0.0.1"
        assert first.getsockname()[1] != second.getsockname()[1]


@pytest.mark.parametrize("port", ["-1", "65536", "x", "²"])
def test_no_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["view", "-m", "x", "--port", port])
    assert "port from 0 to 65535" in capsys.readouterr().err


def test_what_cannot_be_shown_is_said_before_a_page_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    assert main(["view", str(bad), "-m", str(TINY), "--no-browser"]) == 1
    assert "bad.jpg is not an image" in capsys.readouterr().err
    assert main(["view", "-m", str(TINY), "--adaptor", "clip9", "--no-browser"]) == 1
    assert "no model has the adaptor clip9" in capsys.readouterr().err


def test_the_page_of_documentation() -> None:
    page = (ROOT / "docs" / "viewer.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("radio view ")]
    assert [_parser(words).parse_args(words).model for words in commands] == [
        ["c-radio_v3-b"],
        ["radio_v2.5-b", "radio_v2.5-l"],
    ]
    picture = ROOT / "docs" / "images" / "viewer.jpg"
    assert picture.stat().st_size < 350_000
    with Image.open(picture) as image:
        image.verify()
