from __future__ import annotations

from radio.wording import counted


def test_one_and_many() -> None:
    assert [counted(number, "shard") for number in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]
    assert [counted(number, "patch", "patches") for number in (1, 2)] == ["1 patch", "2 patches"]
