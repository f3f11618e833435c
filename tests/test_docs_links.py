"""Links between the pages lead somewhere: to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (".", "docs", "benchmarks", "examples/images", "tests/reference")
PAGES = sorted(
    page.relative_to(ROOT).as_posix() for folder in FOLDERS for page in (ROOT / folder).glob("*.md")
)


def _without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Headings as GitHub makes anchors of them: lower case, only words and hyphens, links by their text."""
    headings = re.findall(r"^#+ (.*)$", _without_code(page), flags=re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _without_code(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not link.startswith(("http://", "https://", "mailto:")) and (
            not target.exists() or (anchor and anchor not in _anchors(target))
        ):
            dead.append(link)
    assert not dead
