"""Coverage-guided fuzzing of a target of this folder, for as long as you like.

    pip install atheris
    python tests/fuzz/run.py images /tmp/corpus -max_total_time=300 -rss_limit_mb=4000

A target is a module ``fuzz_NAME`` with ``seeds()``, which fill the corpus, ``prepare()`` and ``read_any(content)``.
What follows the corpus goes to libFuzzer.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

INSTRUMENTED = {"images": ["radio.images", "PIL"]}
"""What is watched for new branches, by target; importing the target imports it."""


def main() -> None:
    """Fill the corpus and fuzz until libFuzzer ends."""
    name, corpus = sys.argv[1:3]
    with atheris.instrument_imports(include=INSTRUMENTED[name]):
        target = importlib.import_module(f"fuzz_{name}")
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for seed, content in target.seeds().items():
        (Path(corpus) / seed).write_bytes(content)
    target.prepare()

    def test_one_input(content: bytes) -> None:
        target.read_any(content)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
