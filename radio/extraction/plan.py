"""What a run is: its inputs cut into shards, what is computed, and the fingerprint that keeps runs apart."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from radio import __version__
from radio.extraction.inputs import Listing
from radio.extraction.reading import check_size
from radio.extraction.shards import ShardState, read_state
from radio.extraction.storage import PRIVATE, RUN, Folder
from radio.images import SizeSpec
from radio.images.sizing import size_text
from radio.model import RADIOModel
from radio.modeling.description import weights_digest
from radio.modeling.token_merging import TokenMerging
from radio.wording import counted

ROWS_PER_SHARD = 10_000
DENSE_ROWS_PER_SHARD = 1_000
DENSE_FOLDER = "__dense"

FloatName = Literal["float32", "float16"]
DenseFormat = Literal["safetensors", "arrow"]

_FORMAT = 2
_COLUMNS = ("id", "path", "height", "width", "grid", "status", "error", "summary")
_DENSE_COLUMNS = ("features", "sizes", "positions")
_SEARCH_COLUMNS = ("_distance", "_score", "_relevance_score", "_rowid", "_rowaddr")
_CHANGES_SHOWN = 3


@dataclass(frozen=True)
class ExtractionOptions:
    """What is computed and how it is stored. A folder holds the results of one choice only.

    Attributes:
        size: How large each image becomes, as in `radio.images.target_size`; kept as text.
        summary_dtype: Of the stored vectors.
        dense: Also write the spatial features, in this format.
        dense_dtype: Of the stored spatial features.
        merge: Merge the spatial features to fewer tokens.
        exact: Read every image exactly as `model.encode` does, see `radio.extraction.reading.Decoder`.
        rows_per_shard: Inputs per shard; 10,000 if None, or 1,000 with spatial features.
        image_column: The column of tables that has the images, if not the usual one.
        frame_step: Take every so many frames of a video.

    Raises:
        ValueError: A value is not one of those allowed.
    """

    size: SizeSpec = None
    summary_dtype: FloatName = "float32"
    dense: DenseFormat | None = None
    dense_dtype: FloatName = "float16"
    merge: TokenMerging | None = None
    exact: bool = False
    rows_per_shard: int | None = None
    image_column: str | None = None
    frame_step: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", size_text(self.size))
        for name in ("summary_dtype", "dense_dtype"):
            _check(name, getattr(self, name), ("float32", "float16"))
        _check("dense", self.dense, (None, "safetensors", "arrow"))
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            raise ValueError(f"rows_per_shard must be at least 1, got {self.rows_per_shard}")
        if self.merge is not None and self.dense is None:
            raise ValueError(
                "merge is about spatial features; ask for them too: dense='safetensors' or 'arrow' (--dense)"
            )

    @property
    def rows(self) -> int:
        """Inputs per shard."""
        return self.rows_per_shard or (DENSE_ROWS_PER_SHARD if self.dense else ROWS_PER_SHARD)


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(map(str, allowed))}")


class Run:
    """A run and the folder of its results. Make one with `Run.start` or `Run.load`.

    Attributes:
        folder: Where the results go.
        listing: The inputs.
        options: What is computed.
        description: The run's facts, as ``run.json`` has them.
    """

    def __init__(
        self, folder: Folder, listing: Listing, options: ExtractionOptions, description: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.listing = listing
        self.options = options
        self.description = description

    @classmethod
    def start(
        cls,
        folder: Folder,
        listing: Listing,
        options: ExtractionOptions,
        model: RADIOModel,
        source: str = "",
    ) -> Run:
        """Begin a run in a folder, or go on with the same one.

        Args:
            folder: Where the results go.
            listing: The inputs.
            options: What is computed.
            model: The model.
            source: What the model was loaded from, for those who search the results later.

        Raises:
            ValueError: The folder has the results of another run; the message says what differs.
            OSError: The folder cannot be written.
        """
        check_size(model, options.size)
        facts = {
            "format": _FORMAT,
            "radio": __version__,
            "model": describe_model(model),
            "options": {**asdict(options), "rows_per_shard": options.rows},
            "inputs": {"rows": len(listing), "digest": listing.digest()},
            "source": absolute_source(source),
        }
        description: Mapping[str, Any] = json.loads(json.dumps(facts))
        if not folder.exists(RUN):
            if any(name.endswith(".parquet") for name in folder.names()):
                raise ValueError(
                    f"{folder} has Parquet files, but not the notes of a run ({RUN}); give another folder"
                )
            with folder.writing(_inputs_file(description)) as path:
                listing.write(path)
            folder.create(RUN, json.dumps(description, indent=2).encode())
        there = _read_description(folder)
        differing = [*_differences(there, description), *_changed_inputs(folder, there, listing)]
        if differing:
            raise ValueError(
                f"{folder} has another run: {'; '.join(differing)}. Give another folder, or the same inputs and "
                "options as before"
            )
        return cls(folder, listing, options, there)

    @classmethod
    def load(cls, folder: Folder) -> Run:
        """The run whose results a folder has.

        Raises:
            ValueError: It has none.
        """
        description = _read_description(folder)
        chosen = dict(description["options"])
        if chosen["merge"] is not None:
            stride = chosen["merge"]["stride"]
            chosen["merge"]["stride"] = tuple(stride) if isinstance(stride, list) else stride
            chosen["merge"] = TokenMerging(**chosen["merge"])
        return cls(
            folder,
            Listing.read(folder.read(_inputs_file(description))),
            ExtractionOptions(**chosen),
            description,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of all that shapes the results."""
        return hashlib.sha256(json.dumps(_compared(self.description), sort_keys=True).encode()).hexdigest()

    @property
    def vectors(self) -> dict[str, int]:
        """Name and length of each column of vectors: ``summary`` and one per adaptor."""
        return dict(self.description["model"]["vectors"])

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.listing) // self.options.rows)

    def rows(self, shard: int) -> range:
        """The inputs of a shard, as positions in the listing."""
        start = shard * self.options.rows
        return range(start, min(start + self.options.rows, len(self.listing)))

    def name(self, shard: int) -> str:
        """The file of a shard."""
        return f"{self._stem(shard)}.parquet"

    def dense_name(self, shard: int) -> str:
        """The file of a shard's spatial features."""
        return f"{DENSE_FOLDER}/{self._stem(shard)}.{self.options.dense}"

    def _stem(self, shard: int) -> str:
        digits = max(5, len(str(self.shards)))  # so that the order of the names is that of the shards
        return f"shard-{shard:0{digits}d}-of-{self.shards:0{digits}d}"

    def finished(self) -> dict[int, ShardState]:
        """The shards that are there already, with their spatial features if these were asked for.

        Raises:
            ValueError: A file is damaged or of another run.
        """
        there = set(self.folder.names())
        dense = set(self.folder.names(DENSE_FOLDER)) if self.options.dense else set()
        result = {}
        for shard in range(self.shards):
            name = self.name(shard)
            if name not in there:
                continue
            state = read_state(self.folder, name)
            if state.run != self.fingerprint or state.rows != len(self.rows(shard)):
                raise ValueError(
                    f"{self.folder.address_of(name)} is of another run; delete it and run the same command again"
                )
            if not self.options.dense or self.dense_name(shard).rpartition("/")[2] in dense:
                result[shard] = state
        return result


def shards_of(part: tuple[int, int], count: int) -> range:
    """The shards that one of several runs over the same plan does.

    Args:
        part: Number i and count n of the runs. Numbers may count from 0 or from 1: n of n is the same as 0 of n.
        count: Number of all shards.

    Raises:
        ValueError: There is no such part.
    """
    number, of = part
    if of < 1 or not 0 <= number <= of:
        raise ValueError(f"there is no part {number} of {of}; give i/n with i from 0 to n-1, or from 1 to n")
    return range(number % of, count, of)


def absolute_source(source: str) -> str:
    """What a model was loaded from, in words that hold from every folder."""
    return os.path.abspath(source) if source and os.path.exists(source) else source


def describe_model(model: RADIOModel) -> dict[str, Any]:
    """The facts of a model that shape its outputs.

    Raises:
        ValueError: Its outputs have no place in shards.
    """
    config, names = model.config, list(model.adaptors or {})
    if config.radio1d is not None and config.radio1d.neck_name == "encoder":
        raise ValueError(
            "condensed tokens have no summary of their own in the shards; load the model with neck_name='decoder', or "
            "with None (without --neck-name)"
        )
    vectors = {"summary": model.summary_dim}
    widths = {"features": model.embed_dim}
    for name in names:
        if name.lower() in (*_COLUMNS, *_DENSE_COLUMNS, *_SEARCH_COLUMNS):
            raise ValueError(
                f"the adaptor {name!r} has the name of another column; rename it in the checkpoint's config.json"
            )
        head = config.adaptor(name)
        vectors[name], widths[name] = head.summary.output_dim, head.feature.output_dim
    return {
        "version": config.version,
        "architecture": config.architecture,
        "weights": weights_digest(model),
        "adaptors": names,
        "dtype": str(model.dtype).removeprefix("torch."),
        "vitdet_window_size": model.window_size,
        "eradio_window_size": config.eradio.window_size if config.eradio else None,
        "neck_name": config.radio1d.neck_name if config.radio1d else None,
        "vectors": vectors,
        "widths": widths,
        **({} if model.runtime == "pytorch" else {"runtime": model.runtime}),
    }


def _inputs_file(description: Mapping[str, Any]) -> str:
    return f"{PRIVATE}/inputs-{description['inputs']['digest'][:16]}.arrow"


def _read_description(folder: Folder) -> Mapping[str, Any]:
    if not folder.exists(RUN):
        raise ValueError(f"{folder} has no results of 'radio extract' (there is no {RUN})")
    try:
        description: Mapping[str, Any] = json.loads(folder.read(RUN))
        if all(isinstance(description[name], dict) for name in ("model", "options", "inputs")):
            return description
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{folder.address_of(RUN)} is damaged, so nobody knows which run {folder} has; give another folder, or delete "
        "this one"
    )


def _compared(description: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in description.items() if name != "source"}


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two descriptions differ in, in words."""
    found = []
    before, now = _flat(_compared(there)), _flat(_compared(here))
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if old == new or name.startswith(("model.vectors", "model.widths")):  # those follow from the others
            continue
        if name == "model.weights" and before.get("model.adaptors") != now["model.adaptors"]:
            continue
        if name == "inputs.digest":  # `_changed_inputs` says more
            continue
        if name == "model.weights":
            found.append("the weights are not the same")
        else:
            found.append(f"{name.replace('.', ' ')} was {old!r} and is {new!r}")
    return found


def _changed_inputs(folder: Folder, there: Mapping[str, Any], listing: Listing) -> list[str]:
    """What became of the inputs since a run began, in words; nothing if they are the same."""
    if there["inputs"] == {"rows": len(listing), "digest": listing.digest()}:
        return []
    try:
        before = Listing.read(folder.read(_inputs_file(there)))
        old, new = set(before.table["id"].to_pylist()), set(listing.table["id"].to_pylist())
        stamps = before.stamps()
    except (OSError, ValueError, KeyError):
        return ["the inputs are not the same"]
    replaced = {name for name, stamp in listing.stamps().items() if stamps.get(name, stamp) != stamp}
    parts = [
        f"{counted(len(names), one, many)} ({', '.join(map(repr, sorted(names)[:_CHANGES_SHOWN]))}{more})"
        for names, one, many in (
            (old - new, "is gone", "are gone"),
            (new - old, "is new", "are new"),
            (replaced, "was replaced or changed", "were replaced or changed"),
        )
        if names
        for more in [", ..." if len(names) > _CHANGES_SHOWN else ""]
    ]
    return [f"the inputs are not the same: {', '.join(parts) or 'they moved, or their order is another'}"]


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{before}{name}."))
        else:
            result[before + name] = value
    return result
