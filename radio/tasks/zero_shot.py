"""Zero-shot classification: class names in words, compared with image summaries in a teacher's space.

Source: CLIP (arXiv 2103.00020), section 3.1: a class is the mean embedding of its name in several sentences.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.data.batches import ImageBatch, Progress
from radio.data.tensor_files import load_tensors, save_tensors
from radio.files import atomic_write, cache_folder
from radio.modeling.adaptors import Adaptor
from radio.modeling.network import RADIONetwork
from radio.optional import require
from radio.wording import counted

logger = logging.getLogger(__name__)

PHOTO_TEMPLATES = ("a photo of a {}.",)
"""The one sentence used when no others are asked for; ``{}`` stands for the class name."""

DEFAULT_LOGIT_SCALE = 100.0
"""CLIP's own scale of cosine similarities, for towers whose weights do not hold theirs."""

_CACHE_FORMAT = 1


def imagenet_classes() -> tuple[str, ...]:
    """open_clip's 1000 ImageNet class names, in the order of the sorted folder names (WordNet ids).

    Raises:
        MissingExtraError: open_clip is not installed.
    """
    return tuple(require("open_clip", "text").IMAGENET_CLASSNAMES)


def names_of_folders(folders: Sequence[str]) -> tuple[str, ...]:
    """Class names in words, for the folders of a data set.

    A thousand folders are taken for ImageNet's, in the order of their WordNet ids; others have their own names, with
    spaces for underscores.

    Raises:
        MissingExtraError: They are ImageNet's, and open_clip is not installed.
    """
    return imagenet_classes() if len(folders) == 1000 else tuple(name.replace("_", " ") for name in folders)


def imagenet_templates(kind: str = "openai") -> tuple[str, ...]:
    """Sentences for ImageNet with ``{}`` for the class: ``"openai"`` (80 of them) or ``"simple"`` (7).

    Raises:
        ValueError: Another kind.
        MissingExtraError: open_clip is not installed.
    """
    if kind not in ("openai", "simple"):
        raise ValueError(f"unknown templates {kind!r}; there are 'openai' and 'simple'")
    open_clip = require("open_clip", "text")
    templates = (
        open_clip.OPENAI_IMAGENET_TEMPLATES if kind == "openai" else open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    return tuple(template("{}") for template in templates)


def default_cache_dir() -> Path:
    """Where class embeddings are kept: ``radio/zero_shot`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return cache_folder() / "zero_shot"


def get_adaptor(model: RADIONetwork, name: str) -> Adaptor:
    """A built adaptor of a model.

    Raises:
        ValueError: The model was loaded without it.
    """
    loaded = dict(model.adaptors or {})
    if name not in loaded:
        raise ValueError(
            f"the model was loaded without adaptor {name!r} (it has: {', '.join(loaded) or 'none'}); "
            f"load it with adaptors=[{name!r}]"
        )
    adaptor = loaded[name]
    assert isinstance(adaptor, Adaptor)
    return adaptor


def class_embeddings(
    adaptor: Adaptor,
    classes: Sequence[str],
    templates: Sequence[str] = PHOTO_TEMPLATES,
    batch_size: int = 256,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """One embedding per class: the mean of its sentences' normalized embeddings, normalized again.

    Args:
        adaptor: A text-aligned adaptor of a model.
        classes: K class names.
        templates: Sentences with ``{}`` for the class name.
        batch_size: How many texts go through the text tower at once.
        cache_dir: Where to keep the result, under a hash of classes, templates and text tower; ``None`` keeps
            nothing.
        progress: Shows the progress over the batches.

    Returns:
        ``(K, D)`` float32 on the CPU, rows of length 1.

    Raises:
        ValueError: No classes or no templates, a template without ``{}``, or an adaptor without text.
    """
    _check_prompts(classes, templates)
    if adaptor.text is None:
        raise ValueError(
            f"adaptor {adaptor.name!r} has no text tower; zero-shot needs one, such as clip or siglip"
        )
    cached = (
        None if cache_dir is None else _cache_file(Path(cache_dir), adaptor.text.identity, classes, templates)
    )
    if cached is not None:
        known = _read_cache(cached)
        if known is not None:
            return known
    texts = [template.replace("{}", name) for name in classes for template in templates]
    starts: Iterable[int] = range(0, len(texts), batch_size)
    if progress is not None:
        starts = progress(starts, -(-len(texts) // batch_size), "text")
    parts = [adaptor.encode_text(texts[i : i + batch_size], normalize=True).cpu() for i in starts]
    mean = torch.cat(parts).reshape(len(classes), len(templates), -1).mean(dim=1)
    embeddings = F.normalize(mean, dim=-1)
    if cached is not None:
        _write_cache(cached, embeddings)
    return embeddings


class Ranked(NamedTuple):
    """One label for one image.

    Attributes:
        label: The class name.
        similarity: Cosine similarity of image and class, in [-1, 1].
        probability: Softmax over the classes of the similarities times the teacher's logit scale.
    """

    label: str
    similarity: float
    probability: float


class ZeroShotClassifier:
    """Classes in words, as vectors that summaries of one adaptor are compared with.

    Attributes:
        classes: The K class names.
        embeddings: ``(K, D)`` float32, rows of length 1.
        logit_scale: What similarities are multiplied by before the softmax.
    """

    def __init__(
        self, classes: Sequence[str], embeddings: Tensor, logit_scale: float = DEFAULT_LOGIT_SCALE
    ) -> None:
        if len(classes) != len(embeddings):
            raise ValueError(
                f"{counted(len(classes), 'class', 'classes')} but {counted(len(embeddings), 'embedding')}"
            )
        self.classes = tuple(classes)
        self.embeddings = embeddings
        self.logit_scale = logit_scale

    @classmethod
    def build(
        cls,
        adaptor: Adaptor,
        classes: Sequence[str],
        templates: Sequence[str] = PHOTO_TEMPLATES,
        logit_scale: float | None = None,
        cache_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> ZeroShotClassifier:
        """Make a classifier from class names; see `class_embeddings` for the arguments.

        Args:
            logit_scale: The teacher's own when ``None``.
        """
        embeddings = class_embeddings(adaptor, classes, templates, cache_dir=cache_dir, progress=progress)
        if logit_scale is None and adaptor.text is not None:
            logit_scale = adaptor.text.logit_scale
        return cls(classes, embeddings, DEFAULT_LOGIT_SCALE if logit_scale is None else logit_scale)

    def similarity(self, summary: Tensor) -> Tensor:
        """Cosine similarities with every class.

        Args:
            summary: ``(B, D)``, the adaptor's summaries, of any length.

        Returns:
            ``(B, K)`` float32 on the device of the summaries.

        Raises:
            ValueError: The summaries are not in the space of the classes.
        """
        if summary.ndim != 2 or summary.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"expected summaries (B, {self.embeddings.shape[1]}) to compare with the text, got "
                f"{tuple(summary.shape)}; the adaptor and the text tower must belong to the same teacher"
            )
        if self.embeddings.device != summary.device:
            self.embeddings = self.embeddings.to(summary.device)
        return F.normalize(summary.float(), dim=-1) @ self.embeddings.T

    def probabilities(self, summary: Tensor) -> Tensor:
        """Softmax over the classes of the scaled similarities: ``(B, D)`` to ``(B, K)``."""
        return (self.similarity(summary) * self.logit_scale).softmax(dim=-1)

    def top(self, summary: Tensor, k: int = 5) -> Tensor:
        """The numbers of each image's k best classes, best first: ``(B, D)`` to ``(B, k)`` int64.

        Of equal ones, the lower number comes first.
        """
        order = self.similarity(summary).sort(dim=-1, descending=True, stable=True).indices
        return order[:, :k]

    def rank(self, summary: Tensor, k: int = 5) -> list[list[Ranked]]:
        """The k best classes of each image with their scores, best first."""
        similarity = self.similarity(summary).cpu()
        probability = (similarity * self.logit_scale).softmax(dim=-1)
        order = similarity.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        return [
            [Ranked(self.classes[i], similarity[row, i].item(), probability[row, i].item()) for i in indices]
            for row, indices in enumerate(order.tolist())
        ]


class Accuracy(NamedTuple):
    """Counts over a dataset.

    Attributes:
        top1: How many images had their class first.
        top5: How many had it among the first five.
        images: How many images there were.
    """

    top1: int
    top5: int
    images: int

    def __add__(self, other: object) -> Accuracy:
        """The counts of two parts of a dataset together."""
        if not isinstance(other, Accuracy):
            return NotImplemented
        return Accuracy(self.top1 + other.top1, self.top5 + other.top5, self.images + other.images)


def count_correct(classifier: ZeroShotClassifier, summary: Tensor, labels: Tensor) -> Accuracy:
    """Compare predictions with the truth.

    Args:
        summary: ``(B, D)``, the adaptor's summaries.
        labels: ``(B,)`` int64, the numbers of the true classes.
    """
    hits = classifier.top(summary, 5) == labels.to(summary.device)[:, None]
    return Accuracy(int(hits[:, 0].sum()), int(hits.sum()), len(labels))


@torch.no_grad()
def evaluate(
    model: RADIONetwork,
    adaptor_name: str,
    classifier: ZeroShotClassifier,
    batches: Iterable[ImageBatch],
    labels: Sequence[int],
) -> Accuracy:
    """Classify a data set and count how often the true class comes first, and among the first five.

    Args:
        model: A model that was loaded with this adaptor.
        adaptor_name: The adaptor whose text tower made the classifier.
        batches: Images, from `radio.data.batches.image_batches`.
        labels: The true class of every image of the data set.
    """
    total = Accuracy(0, 0, 0)
    for batch in batches:
        output = model(batch.pixels.to(model.device))[adaptor_name]
        truth = torch.tensor([labels[position] for position in batch.positions])
        total = total + count_correct(classifier, output.summary, truth)
    return total


def _check_prompts(classes: Sequence[str], templates: Sequence[str]) -> None:
    if isinstance(classes, str) or isinstance(templates, str):
        raise ValueError("classes and templates are lists of strings, not one string")
    if not classes or not templates:
        raise ValueError(f"need at least one class and one template, got {len(classes)} and {len(templates)}")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} for the class name")


def _cache_file(folder: Path, identity: str, classes: Sequence[str], templates: Sequence[str]) -> Path:
    content = json.dumps([_CACHE_FORMAT, identity, list(classes), list(templates)])
    return folder / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"


def _read_cache(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        return load_tensors(path)["embeddings"]
    except (ValueError, KeyError, OSError) as error:
        logger.warning("ignoring the damaged cache file %s: %s", path, error)
        return None


def _write_cache(path: Path, embeddings: Tensor) -> None:
    with atomic_write(path) as temporary:
        save_tensors(temporary, {"embeddings": embeddings})
