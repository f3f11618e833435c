"""docs/models.md says what the catalogue and the full-size tests say."""

from __future__ import annotations

from models_table import PAGE, page
from released import ARCHITECTURES, OTHER_LAYOUTS, VERSIONS, make_checkpoint

from radio import RELEASES, load_model


def test_tables_are_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "run: python tests/models_table.py"
    assert all(f"| {release.version} |" in text for release in RELEASES)


def test_the_count_of_a_plain_radio_v1(tmp_path):
    """The page names the size that it would have in the other layout."""
    version = OTHER_LAYOUTS["vit_huge_patch14_224 without CPE"]
    assert version.architecture == VERSIONS["radio_v1"].architecture
    make_checkpoint(tmp_path / "plain.pth.tar", version, repeat_blocks=True)
    model = load_model(tmp_path / "plain.pth.tar", device="cpu", dtype="bfloat16")
    assert f"{sum(p.numel() for p in model.model.parameters()):,}" in PAGE.read_text(encoding="utf-8")


def test_position_embeddings_of_an_h_model():
    assert round(128 * 128 * ARCHITECTURES["vit_huge_patch16_224"].width / 1e6) == 21
