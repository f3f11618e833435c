"""From a version name to local files, through huggingface_hub."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_session, hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)
from tqdm.auto import tqdm

from radio.catalog import Release
from radio.checkpoints.hub_repo import CONFIG, INDEX, WEIGHTS, describe_folder, has_weights, shard_names
from radio.checkpoints.layouts.descriptions import Description
from radio.errors import DownloadError, FileNotInRepositoryError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DownloadOptions:
    """How files are fetched.

    Attributes:
        cache_dir: Where downloads are kept, instead of huggingface_hub's cache.
        revision: Branch, tag or commit of the Hub repository.
        subfolder: The folder inside a Hub repository where the model is.
        local_files_only: Never use the network.
        token: Hugging Face token, if not the stored one.
        progress: Show progress bars.
    """

    cache_dir: str | Path | None = None
    revision: str | None = None
    subfolder: str | None = None
    local_files_only: bool = False
    token: str | bool | None = None
    progress: bool = True


DEFAULT_OPTIONS = DownloadOptions()


_ATTEMPTS = 5


class _SilentBar(tqdm):
    """A progress bar that shows nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def download_release(release: Release, options: DownloadOptions) -> Path:
    """The torch file of a released version, or the folder of one without, from the local cache or the Hub.

    A file that the public hub code downloaded into torch.hub's cache is used where it lies, unless a revision is asked
    for. A connection that breaks is taken up again where it broke; a process that is started again starts the file
    again. ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` work as they do
    everywhere in huggingface_hub. The license of the weights is logged when the file is first downloaded.

    Raises:
        DownloadError: The file is not in the cache and cannot be fetched; the message says which file of which
            repository to put where.
    """
    if release.filename is None:
        return download_repository(release.repository, options, release.license)
    cached = _in_cache(release.repository, release.filename, options)
    if not cached and options.revision is None and (found := in_torch_hub(release)) is not None:
        logger.info("using %s, which torch.hub downloaded", found)
        return found
    path = _fetch(release.repository, release.filename, options)
    if not cached:
        logger.warning("the weights of %s are licensed under: %s", release.version, release.license)
    return path


def download_repository(repository: str, options: DownloadOptions, license: str | None = None) -> Path:
    """The folder of a Hub repository with ``config.json`` and its safetensors weights.

    Raises:
        ValueError: The name cannot be a repository's.
        DownloadError: A file is not in the cache and cannot be fetched.
        CheckpointError: Its config does not describe a RADIO model, or the index of its weights is damaged.
    """
    _check_name(repository)
    name = f"{_place(options)}{CONFIG}"
    cached = _in_cache(repository, name, options)
    config = _fetch(repository, name, options)
    _fetch_weights(repository, config.parent, options, describe_folder(config.parent))
    if not cached:
        terms = license or f"see https://huggingface.co/{repository}"
        logger.warning("the weights of %s are licensed under: %s", repository, terms)
    return config.parent


def download_other(
    repository: str, options: DownloadOptions = DEFAULT_OPTIONS, also: Sequence[str] = ()
) -> Path:
    """The folder of a Hub repository with ``config.json`` and its safetensors weights, of any model.

    Args:
        repository: Its name.
        options: Where from and where to.
        also: Other files of it that are wanted beside these.

    Raises:
        ValueError: The name cannot be a repository's.
        DownloadError: A file is not in the cache and cannot be fetched.
        CheckpointError: The index of its weights is damaged.
    """
    _check_name(repository)
    folder = _fetch(repository, CONFIG, options).parent
    for name in also:
        _fetch(repository, name, options)
    _fetch_weights(repository, folder, options, None)
    return folder


def _fetch_weights(
    repository: str, folder: Path, options: DownloadOptions, description: Description | None
) -> None:
    """Fetch the one weights file or the shards beside a config that hold the model.

    No network is needed for those that are here.
    """
    place = _place(options)
    if not (folder / INDEX).is_file():
        try:
            _fetch(repository, place + WEIGHTS, options)
            return
        except FileNotInRepositoryError:
            pass
    for name in shard_names(_fetch(repository, place + INDEX, options), description):
        _fetch(repository, place + name, options)


def _place(options: DownloadOptions) -> str:
    """What stands before the names of files in a repository."""
    return f"{options.subfolder.strip('/')}/" if options.subfolder else ""


def is_cached(release: Release, options: DownloadOptions = DEFAULT_OPTIONS) -> bool:
    """Whether a version's weights are already in the local cache, or its torch file in torch.hub's."""
    if release.filename is None:
        config = _path_in_cache(release.repository, CONFIG, options)
        return config is not None and has_weights(config.parent)
    return _in_cache(release.repository, release.filename, options) or in_torch_hub(release) is not None


def in_torch_hub(release: Release) -> Path | None:
    """A version's file in torch.hub's cache (``TORCH_HOME``), where the public hub code puts it; None if there is none.

    A file that is not whole is passed over.
    """
    if release.filename is None:
        return None
    path = Path(torch.hub.get_dir(), "checkpoints", release.filename)
    if not path.is_file():
        return None
    if not zipfile.is_zipfile(path):
        logger.warning("%s is not a whole weights file, so it is not used; delete it", path)
        return None
    return path


def _in_cache(repository: str, filename: str, options: DownloadOptions) -> bool:
    return _path_in_cache(repository, filename, options) is not None


def _path_in_cache(repository: str, filename: str, options: DownloadOptions) -> Path | None:
    found = try_to_load_from_cache(
        repository, filename, cache_dir=options.cache_dir, revision=options.revision
    )
    return Path(found) if isinstance(found, str) else None


def _check_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(
            f"{repository!r} is not a repository name of the form 'owner/name' ({error})"
        ) from error


def _fetch(repository: str, filename: str, options: DownloadOptions) -> Path:
    endpoint = _endpoint()
    url = f"{endpoint}/{repository}/resolve/{options.revision or 'main'}/{filename}"
    if not options.local_files_only and not _in_cache(repository, filename, options):
        _check_reachable(endpoint, _absent(repository, filename, url))
    try:
        return _download(repository, filename, options)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise DownloadError(_absent(repository, filename, url)) from error
    except EntryNotFoundError as error:
        raise FileNotInRepositoryError(
            f"the Hugging Face repository {repository} has no file {filename} ({url})"
        ) from error
    except (OSError, HTTPError) as error:
        raise DownloadError(f"cannot download {url}: {error}") from error


def _download(repository: str, filename: str, options: DownloadOptions) -> Path:
    """Download through huggingface_hub. A connection that breaks is taken up again, a few times."""
    with _progress(options.progress) as bar:
        for attempt in range(_ATTEMPTS):
            try:
                return Path(
                    hf_hub_download(
                        repository,
                        filename,
                        revision=options.revision,
                        cache_dir=options.cache_dir,
                        local_files_only=options.local_files_only,
                        token=options.token,
                        **bar,
                    )
                )
            except OSError as error:
                # Newer versions of huggingface_hub do this by themselves; those on requests raise its error.
                if type(error).__name__ != "ChunkedEncodingError" or attempt == _ATTEMPTS - 1:
                    raise
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _progress(shown: bool) -> Iterator[dict[str, Any]]:
    """Arguments of `hf_hub_download` for a progress bar or none."""
    if shown:
        yield {}
    elif "tqdm_class" in signature(hf_hub_download).parameters:
        yield {"tqdm_class": _SilentBar}
    else:  # before version 1 huggingface_hub has one switch for the whole process
        were_off = are_progress_bars_disabled()
        disable_progress_bars()
        try:
            yield {}
        finally:
            if not were_off:
                enable_progress_bars()


def check_hub(repository: str, filenames: Sequence[str], otherwise: str) -> None:
    """Fail at once where another library would ask the Hub in vain for up to a minute.

    Args:
        repository: What is about to be loaded from.
        filenames: Files of which one is in the cache if the repository was ever loaded from; then nothing is asked.
        otherwise: The message.

    Raises:
        DownloadError: None of the files is in the cache and the Hub cannot be reached.
    """
    if not any(_in_cache(repository, name, DEFAULT_OPTIONS) for name in filenames):
        _check_reachable(_endpoint(), otherwise)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _check_reachable(endpoint: str, otherwise: str) -> None:
    """Ask once whether the Hub answers: huggingface_hub asks six times before it gives up, for up to six minutes.

    Raises:
        DownloadError: It does not; with the message `otherwise`.
    """
    try:
        head = get_session().head
        # Before version 1 huggingface_hub speaks through requests, whose HEAD follows no redirect by itself.
        stay: dict[str, Any] = (
            {"follow_redirects": False} if "follow_redirects" in signature(head).parameters else {}
        )
        head(endpoint, timeout=HF_HUB_ETAG_TIMEOUT, **stay)
    except (OSError, HTTPError) as error:
        raise DownloadError(otherwise) from error


def _absent(repository: str, filename: str, url: str) -> str:
    missing = (
        f"{filename} of the Hugging Face repository {repository} is not in the local cache and the Hub cannot be "
        "reached (or offline mode is on). On a machine with a connection"
    )
    if filename.endswith((".json", ".safetensors")):  # one of several files, which belong in one folder
        folder = repository.rsplit("/", 1)[-1]
        return (
            f"{missing} run: hf download {repository} --local-dir {folder}; copy "
            "that folder here and pass its path instead of the name"
        )
    return (
        f"{missing} download {url}, copy it here and pass its path instead of the name; or fill the cache with: "
        f"hf download {repository} {filename}"
    )
