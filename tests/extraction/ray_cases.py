"""Ray does the same work: on two nodes of a real cluster, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray

from radio import RADIOModel
from radio.cli import main
from radio.extraction import ExtractionOptions, Progress, TooManyFailuresError, extract
from radio.extraction.ray_engine import ModelSource, extract_with_ray

OPTIONS = ExtractionOptions(size=256, rows_per_shard=2)
_SECONDS = 120
_QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


def start_node(*arguments: str) -> subprocess.Popen[bytes]:
    """A node of one core on the loopback interface, in a process group of its own."""
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--node-ip-address",
        "127.0.0.1",
    ]
    command += [
        "--num-cpus",
        "1",
        "--object-store-memory",
        str(80 * 2**20),
        "--disable-usage-stats",
        *arguments,
    ]
    # A token that a Ray of this machine once left in the home folder would lock the test out of its own cluster.
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_node(process: subprocess.Popen[bytes]) -> None:
    """Kill a node with all that belongs to it, as when a machine loses its power."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for_nodes(address: str, count: int) -> None:
    """Until so many nodes belong to the cluster."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            ray.init(address, log_to_driver=False, ignore_reinit_error=True, logging_level="error")
            if sum(node["Alive"] for node in ray.nodes()) == count:
                return
        except ConnectionError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"the cluster does not have {count} nodes after {_SECONDS} seconds")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of one node."""
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    settings = ["--include-dashboard", "false", "--system-config", json.dumps(_QUICK_TO_NOTICE)]
    place = tempfile.mkdtemp(
        prefix="ray-"
    )  # apart from other clusters of this machine; short, for sockets' names
    settings += ["--temp-dir", place]
    head = start_node("--head", "--port", port, *settings)
    try:
        wait_for_nodes(address, 1)
        yield address
    finally:
        ray.shutdown()
        kill_node(head)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def data(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(pictures, folder)
    (folder / "05-bad.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def expected(data: Path, model: RADIOModel, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("plain")
    extract(data, model, folder, OPTIONS)
    return pd.read_parquet(folder)


def assert_same(folder: Path, expected: pd.DataFrame) -> None:
    found = pd.read_parquet(folder)
    scalars = ["id", "path", "height", "width", "status", "error"]
    pd.testing.assert_frame_equal(found[scalars], expected[scalars])
    for name in ("grid", "summary", "clip"):
        for one, other in zip(found[name], expected[name], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_node_killed_in_the_middle_loses_nothing(
    cluster: str, data: Path, expected: pd.DataFrame, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    second = [start_node("--address", cluster)]
    wait_for_nodes(cluster, 2)
    there_when_killed = []

    def kill(progress: Progress) -> None:
        if second and progress.done >= 6:
            there_when_killed.append(len(list(out.glob("*.parquet"))))
            kill_node(second.pop())

    report = extract_with_ray(
        data,
        ModelSource(str(checkpoint), ["clip"], device="cpu"),
        out,
        OPTIONS,
        address=cluster,
        actors=2,
        workers=1,
        on_progress=kill,
    )
    assert 0 < there_when_killed[0] < 13
    wait_for_nodes(cluster, 1)
    assert (report.shards, report.rows, report.failed, report.skipped) == (13, 25, 1, 0)
    assert report.counts.failures == [(str(data / "05-bad.png"), expected.error.dropna().iloc[0])]
    assert_same(out, expected)


def test_what_goes_wrong_in_a_node_is_told_in_a_line(
    cluster: str, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (data, ModelSource(str(checkpoint), device="cpu"), out, OPTIONS)
    blocked = out / "shard-00003-of-00013.parquet"

    def block(progress: Progress) -> None:
        blocked.mkdir(exist_ok=True)

    with pytest.raises(RuntimeError, match=f"OSError: cannot write {blocked}: Is a directory") as caught:
        extract_with_ray(*arguments, address=cluster, actors=1, workers=1, on_progress=block)
    assert "\n" not in str(caught.value)
    blocked.rmdir()
    assert extract_with_ray(*arguments, address=cluster, actors=1, workers=1).rows == 25


def test_what_one_engine_began_the_other_ends(
    cluster: str,
    data: Path,
    expected: pd.DataFrame,
    model: RADIOModel,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    extract(data, model, out, OPTIONS, shard=(0, 2))
    with pytest.raises(
        TooManyFailuresError,
        match="1 input failed, more than the 0 allowed; the last one is .*05-bad.png: it is not an image",
    ):
        extract_with_ray(
            data,
            ModelSource(str(checkpoint), ["clip"], device="cpu"),
            out,
            OPTIONS,
            address=cluster,
            retry_failed=True,
            max_failures=0,
            workers=1,
        )
    arguments = [
        "extract",
        str(data),
        "-m",
        str(checkpoint),
        "--adaptor",
        "clip",
        "-o",
        str(out),
        "--size",
        "256",
    ]
    arguments += ["--rows-per-shard", "2", "--device", "cpu", "--engine", "ray", "--address", cluster]
    assert main([*arguments, "--workers", "1"]) == 0
    assert f"{out}: 13 shards, 25 rows: 24 ok, 1 failed" in capsys.readouterr().out
    assert_same(out, expected)
    assert extract(data, model, out, OPTIONS).counts.rows == 0
