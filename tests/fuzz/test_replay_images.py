"""Some seconds of what `images.py` does for minutes: mutations of images of every format."""

from __future__ import annotations

import random
import struct

import pytest
from fuzz.images import LARGEST, read_any, seeds
from watching import watched

from radio.images import opening

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "open",
)
MUTATIONS = 60


def _mutate(content: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One to three changes: bits, runs, numbers at the ends of their range, cuts, parts of another file."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(max(len(data), 1))
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + chance.randint(1, 16)] = chance.randbytes(chance.randint(0, 16))
        elif kind == 2:
            number = chance.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
            data[at : at + 4] = struct.pack(chance.choice(("<I", ">I")), number)
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at:at] = data[at : at + chance.randint(1, 64)]
        else:
            other = chance.choice(others)
            data[at:] = other[at:]
    return bytes(data)


@pytest.mark.parametrize("name", seeds())
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_an_image_or_an_image_error(name, monkeypatch):
    monkeypatch.setattr(opening, "MAX_PIXELS", LARGEST)
    everything = seeds()
    chance = random.Random(name)
    assert read_any(everything[name])
    with watched(*FORBIDDEN) as seen:
        for _ in range(MUTATIONS):
            content = _mutate(everything[name], chance, list(everything.values()))
            try:
                read_any(content)
            except Exception as error:
                pytest.fail(f"{error!r} for {content!r}")
    assert seen == []
