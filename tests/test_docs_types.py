"""The Python snippets of README.md and docs/ pass mypy, as a script of a user's would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

MODEL = 'from radio import load_model\n\nmodel = load_model("radio_v2.5-l")\n'
STARTS = {
    "finetuning.md": """
import torch
from torch import Tensor

images: Tensor = torch.rand(1, 3, 512, 512)
loader: list[tuple[Tensor, Tensor]] = []
loader_with_masks: list[tuple[Tensor, Tensor]] = []
""",
    "families.md": "import torch\n\nx = torch.rand(1, 3, 512, 512)\n",
    "images.md": MODEL,
    "performance.md": MODEL + "import torch\n",
    "visualization.md": MODEL + 'paths = ["photo.jpg"]\n',
}
"""What a page takes for granted before its first snippet."""


def _script(page: Path) -> str:
    """The snippets of a page, in order: later ones go on with the names of earlier ones."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return STARTS.get(page.name, "") + "\n".join(blocks)


def test_snippets_have_types(tmp_path: Path) -> None:
    scripts = {page: _script(page) for page in PAGES}
    files = []
    for page, script in scripts.items():
        if script:
            files.append(tmp_path / f"{page.stem.lower()}_page.py")
            files[-1].write_text(script, encoding="utf-8")
    assert len(files) > 5
    # The project's own settings and cache: after `make lint` this takes seconds.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, files)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not run.returncode, run.stdout.replace(f"{tmp_path}/", "") + run.stderr
