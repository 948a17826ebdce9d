"""Datasets of the Hugging Face Hub: the revision is resolved to a commit first, and that commit is what is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieverl.data.files import Raw, pick_split, rows_of
from sieverl.errors import DataError

if TYPE_CHECKING:
    from sieverl.data.source import Place


def fetch(place: Place, split: str) -> tuple[Iterable[Raw], dict[str, Any]]:
    """The rows of one split, and where they came from (Hub id, configuration, commit).

    What was downloaded before is taken from the cache, and a download that was cut off goes on where it stopped (both
    are the Hub library's). Raises DataError when the Hub cannot be reached or does not have what is asked for.
    """
    import datasets
    from huggingface_hub.errors import OfflineModeIsEnabled

    hub, config = str(place.hub), place.config
    name = f"{hub}:{config}" if config else hub
    splits = place.known.splits
    # A known set with one split (a benchmark's is called test or train) has only that one to give.
    split = splits.get(split, next(iter(splits.values())) if place.name and len(splits) == 1 else split)
    unreachable = (_http_error(), OfflineModeIsEnabled, ConnectionError, FileNotFoundError)
    try:
        commit = resolve(hub, place.revision)
        found = datasets.load_dataset(hub, config, revision=commit)
    except unreachable as error:
        raise DataError(_advice(place, error)) from error
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{name} cannot be loaded: {_line(error)}") from error
    dataset = found[pick_split(split, found.keys(), name)]
    return rows_of(dataset, name), {"hub": hub, "config": config, "revision": commit}


def resolve(hub: str, revision: str | None) -> str:
    """The commit that a branch or tag of a dataset stands for; without network the one that is in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        return str(HfApi().dataset_info(hub, revision=revision).sha)
    except (_http_error(), OfflineModeIsEnabled) as error:
        if isinstance(error, HfHubHTTPError):  # the Hub was reached, and says no
            raise
        folder = snapshot_download(hub, repo_type="dataset", revision=revision, local_files_only=True)
        return Path(folder).name


def _http_error() -> type[Exception]:
    """The error of a connection that fails: httpx's or httpx2's, whichever the installed Hub library is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _advice(place: Place, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    hub, local = place.hub, f"{place.name}@FILE" if place.name else "its path"
    if isinstance(error, GatedRepoError):
        return f"{hub} is gated: accept its terms on the Hub and run `hf auth login`, or give a local copy as {local}"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub} has no revision {place.revision!r}; give a branch, a tag or a commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hub has no public dataset {hub!r}, and no such file is here; check the name, or `hf auth login`"
    return (
        f"cannot reach the Hub for the dataset {hub!r} ({type(error).__name__}), and it is not in the cache; connect, "
        f"or copy the dataset here (`hf download {hub} --repo-type dataset --local-dir DIR`) and give {local}"
    )


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
