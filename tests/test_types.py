"""mypy accepts what users write, and knows what comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _mypy(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


def test_mypy_accepts_what_users_write(tmp_path):
    done = _mypy(ROOT / "tests" / "typed_use.py")
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import radio\n"
        "def f(model: radio.RADIOModel) -> None:\n"
        "    model.encode('photo.jpg')[0]\n"
        "    model.encode(['a.jpg']).summary\n"
        "    model.encode(3)\n"
    )
    errors = _mypy(wrong).stdout
    assert "Found 3 errors" in errors, errors
