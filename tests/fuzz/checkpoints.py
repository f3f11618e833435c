"""Fuzz target of the checkpoint reader: any bytes give a model that runs, or a `RadioError`.

    python tests/fuzz/checkpoints.py -max_total_time=300              # minutes, guided by coverage (extra: fuzz)
    python tests/fuzz/checkpoints.py out/corpus -max_total_time=300   # keeps what it finds in out/corpus

Replays and a short plain search run in the tests (`test_replay.py`). The first byte of an input says where the others
go: the pickle of a torch file, a whole torch file, ``config.json``, the header of the weights beside it, or an index of
shards.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect")
_PARTS = ("pickle", "torch file", "config", "header", "index")


class Workshop:
    """Good files, to be mixed with the fuzzer's bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.torch_file = (REFERENCE / "v2_5" / "checkpoint.pth.tar").read_bytes()
        self.config = (REFERENCE / "hf_repo" / "config.json").read_bytes()
        self.weights = (REFERENCE / "hf_repo" / "model.safetensors").read_bytes()
        (self.header_size,) = struct.unpack("<Q", self.weights[:8])
        with zipfile.ZipFile(io.BytesIO(self.torch_file)) as archive:
            self.records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        self.pickle = next(data for name, data in self.records.items() if name.endswith("/data.pkl"))

    def seeds(self) -> list[bytes]:
        """Good inputs, one for every part."""
        header = self.weights[8 : 8 + self.header_size]
        index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
        parts = (self.pickle, self.torch_file, self.config, header, index)
        return [bytes([number]) + part for number, part in enumerate(parts)]

    @contextmanager
    def file(self, data: bytes) -> Iterator[Path]:
        """The file or folder that an input makes."""
        part = _PARTS[data[0] % len(_PARTS)] if data else "config"
        rest = data[1:]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield self._write(part, rest, folder)
        finally:
            shutil.rmtree(folder)

    def _write(self, part: str, data: bytes, folder: Path) -> Path:
        if part in ("pickle", "torch file"):
            path = folder / "file.pth.tar"
            path.write_bytes(self._with_pickle(data) if part == "pickle" else data)
            return path
        (folder / "config.json").write_bytes(data if part == "config" else self.config)
        weights = self.weights
        if part == "header":
            weights = struct.pack("<Q", len(data)) + data + self.weights[8 + self.header_size :]
        (folder / "model-00001-of-00001.safetensors").write_bytes(weights)
        if part == "index":
            (folder / "model.safetensors.index.json").write_bytes(data)
        else:
            (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
        return folder

    def _with_pickle(self, data: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in self.records.items():
                archive.writestr(name, data if name.endswith("/data.pkl") else content)
        return file.getvalue()


def run(workshop: Workshop, data: bytes) -> str:
    """Load an input and run what loads.

    Returns:
        The text of the error, or ``"a model"``.

    Raises:
        AssertionError: Something was started or connected to, or a message is long or cannot be printed.
        Exception: Whatever the library lets through that is no `RadioError`.
    """
    from watching import watched

    from radio import RadioError, load_model

    with workshop.file(data) as path, watched(*FORBIDDEN) as events:
        try:
            model = load_model(path, device="cpu", dtype="float32")
        except RadioError as error:
            outcome = str(error)
        else:
            side = model.min_resolution_step
            if side <= 512:
                with torch.inference_mode():
                    model(torch.zeros(1, 3, side, side))
            outcome = "a model"
    assert events == [], events
    assert len(outcome) < 4000 and outcome.isprintable(), outcome[:4000]
    return outcome


def mutated(data: bytes, chance: random.Random) -> bytes:
    """An input with a few bits, bytes or pieces changed."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(1, max(len(changed), 2))
        kind = chance.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            del changed[at : at + chance.randrange(1, 16)]
        else:
            piece = chance.randrange(1, max(len(changed), 2))
            changed[at:at] = changed[piece : piece + chance.randrange(1, 32)]
    return bytes(changed)


def search(
    workshop: Workshop, seeds: list[bytes], inputs: int, seed: int
) -> Iterator[tuple[bytes, Callable]]:
    """Inputs of a plain search, without coverage: each with a function that runs it."""
    chance = random.Random(seed)
    for number in range(inputs):
        data = mutated(seeds[number % len(seeds)], chance)
        yield data, lambda data=data: run(workshop, data)


def main() -> None:
    """Search guided by coverage until libFuzzer's arguments say stop."""
    import atheris

    sys.path.append(str(REFERENCE.parent))  # as in the tests
    with atheris.instrument_imports(include=["radio", "torch._weights_only_unpickler"]):
        import radio.loading  # noqa: F401 - instrumented while it is imported
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        corpus = Path(folder, "seeds")
        corpus.mkdir()
        for number, seed in enumerate(workshop.seeds()):
            (corpus / str(number)).write_bytes(seed)
        folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        for place in folders:
            Path(place).mkdir(parents=True, exist_ok=True)
        options = ["-max_len=2000000", "-rss_limit_mb=4096", "-timeout=20"]
        atheris.Setup([*sys.argv, *options, str(corpus)], lambda data: run(workshop, data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
