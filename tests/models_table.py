"""The tables of docs/models.md. To write them anew: ``python tests/models_table.py``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"

SIZES = (
    "version",
    "architecture",
    "patch",
    "blocks",
    "features C",
    "summary D",
    "prefix tokens",
    "parameters",
    "in bfloat16",
)
USE = ("version", "works best at", "up to", "ViTDet", "adaptors", "license", "weights")


OTHER_FAMILIES = {
    "e-radio_v2": ("e-radio_v2", "`eradio` ([E-RADIO](families.md))", 16, "5 + 5", 1536, 1536, "–"),
    "c-radio_v4-1d-h": (
        "c-radio_v4-1d-h",
        "`radio1d_huge_patch16_224` ([RADIO1D](families.md))",
        16,
        "32, decoder 6",
        "1280, encoder 2560",
        "2560, encoder 5120",
        "4 + 6",
    ),
}
"""As `tests/test_families_full_size.py` has them."""


def sizes() -> str:
    """What each version is made of; the counts are those that `tests/test_catalog_full_size.py` measures."""
    from released import ARCHITECTURES, VERSIONS

    from radio import RELEASES

    rows = []
    for release in RELEASES:
        if release.family != "vit":
            rows.append((*OTHER_FAMILIES[release.version], *_counts(release)))
            continue
        version = VERSIONS[release.version]
        architecture = ARCHITECTURES[version.architecture]
        rows.append(
            (
                release.version,
                f"`{version.architecture}`",
                release.patch_size,
                architecture.depth,
                architecture.width,
                architecture.width * version.num_summary_tokens,
                f"{version.num_cls_tokens} + {version.registers}",
                *_counts(release),
            )
        )
    return _table(SIZES, rows)


def _counts(release) -> tuple[str, str]:
    return f"{release.parameters:,}", f"{release.parameters * 2 / 1e9:.2f} GB"


def use() -> str:
    """What each version is for."""
    from radio import RELEASES

    rows = []
    for release in RELEASES:
        height, width = release.preferred_resolution
        rows.append(
            (
                release.version,
                f"{height} × {width}",
                release.max_resolution,
                _windows(release),
                ", ".join(release.adaptors) or "–",
                "open" if release.license.startswith("NVIDIA Open") else "non-commercial",
                f"`{release.repository}`" + (f" / `{release.filename}`" if release.filename else ""),
            )
        )
    return _table(USE, rows)


def _windows(release) -> str:
    if not release.vitdet:
        return "–"
    if release.vitdet_num_windowed:
        return f"{release.vitdet_num_windowed} windowed, 1 global"
    return f"{release.vitdet_num_global or 4} global"


def _table(header: tuple[str, ...], rows: Iterable[tuple]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def page(text: str) -> str:
    """The page's text with its tables as they should be."""
    for name, table in (("sizes", sizes()), ("use", use())):
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text, found = marks.subn(rf"\g<1>{table}\n\g<2>", text)
        assert found == 1, f"the page has no place for the table {name!r}"
    return text


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
