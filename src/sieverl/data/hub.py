"""Datasets of the Hugging Face Hub: the revision is resolved to a commit first, and that commit is what is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieverl.data.local import Raw, pick_split, rows_of
from sieverl.errors import DataError

if TYPE_CHECKING:
    from sieverl.data.locate import DatasetRef


def fetch(place: DatasetRef, split: str) -> tuple[Iterable[Raw], dict[str, Any]]:
    """The rows of one split, and where they came from (Hub id, configuration, commit).

    Raises DataError when the Hub cannot be reached and the dataset is not in its cache, or when it has no such split.
    """
    folder = download(place)
    name = f"{place.hub}:{place.config}" if place.config else str(place.hub)
    return load(folder, name, place, split), {"hub": place.hub, "config": place.config, "revision": folder.name}


def load(folder: Path, name: str, place: DatasetRef, split: str) -> Iterable[Raw]:
    """The rows of one split of a dataset repository's folder: its README says which files make which configuration."""
    import datasets

    splits = place.known.splits
    # A known set with one split (a benchmark's is called test or train) has only that one to give.
    split = splits.get(split, next(iter(splits.values())) if place.name and len(splits) == 1 else split)
    try:
        found = datasets.load_dataset(str(folder), place.config)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{name} cannot be loaded: {_line(error)}") from error
    return rows_of(found[pick_split(split, found.keys(), name)], name)


def download(place: DatasetRef) -> Path:
    """The dataset's files in the Hub library's cache, in a folder named after the commit.

    The library takes from the cache what is there, goes on with a download that was cut off, and without network gives
    what the revision meant when it was last seen, if that is complete.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # httpx's error or httpx2's, whichever the installed Hub library is built on
    failed_connection: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        return Path(snapshot_download(str(place.hub), repo_type="dataset", revision=place.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, failed_connection, ConnectionError) as error:
        raise DataError(_advice(place, error)) from error


def _advice(place: DatasetRef, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    hub, local = place.hub, f"{place.name}@DIR" if place.name else "DIR"
    if isinstance(error, GatedRepoError):
        return f"{hub} is gated: accept its terms on the Hub and run `hf auth login`, or give a local copy as {local}"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub} has no revision {place.revision!r}; give a branch, a tag or a commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hub has no public dataset {hub!r}, and no such file is here; check the name, or `hf auth login`"
    return (
        f"cannot reach the Hub for the dataset {hub!r}, and it is not complete in the cache; connect, or get a copy "
        f"(`hf download {hub} --repo-type dataset --local-dir DIR` where there is a network) and give {local}"
    )


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
