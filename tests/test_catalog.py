"""Names of versions: what is nearly one is answered with the one that was meant."""

from __future__ import annotations

import pytest

from radio import load_model
from radio.cli import main


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("radio_v2_5_l", "'radio_v2.5-l'"),
        ("radio-v2.5-L", "'radio_v2.5-l'"),
        ("RADIOv2.5-B", "'radio_v2.5-b'"),
        ("C-RADIOv3-B", "'c-radio_v3-b'"),
        ("c-radio-v4-so400", "'c-radio_v4-so400m'"),
        ("c_radio_v4_h", "'c-radio_v4-h'"),
        ("RADIO-L", "'radio_v2.5-l'"),
        ("eradio_v2", "'e-radio_v2'"),
    ],
)
def test_a_near_miss_names_what_was_meant(given: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=r"unknown version .*; released: radio_v2\.5-b, .*; did you mean "
    ) as failure:
        load_model(given)
    assert meant in str(failure.value).rpartition("did you mean")[2]


def test_a_name_like_no_other_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="unknown version 'vit_large'") as failure:
        load_model("vit_large")
    assert "did you mean" not in str(failure.value)


def test_the_command_says_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "c-radio-v3-b"]) == 1
    assert capsys.readouterr().err.endswith("did you mean 'c-radio_v3-b'?\n")
