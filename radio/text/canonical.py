"""The form in which SigLIP 2 models saw text during training."""

from __future__ import annotations

import string

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonicalize(text: str) -> str:
    """Lower case, without punctuation (underscores become spaces), single spaces between words.

    Source: SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786) train and evaluate on text in this form.
    """
    words = text.replace("_", " ").translate(_WITHOUT_PUNCTUATION).lower().split()
    return " ".join(words)
