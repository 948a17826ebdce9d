"""Download a model or a dataset from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sieverl.errors import DataError, first_line

Kind = Literal["model", "dataset"]
PATIENCE_S = 10.0  # for the Hub to answer the first question


def download(
    name: str,
    kind: Kind,
    copy: str = "DIR",
    revision: str | None = None,
    only: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
) -> Path:
    """The folder of a Hub repository in the Hub library's cache; it is named after the commit.

    The library does not download again what is in the cache, and continues a download that was cut off. Without a
    network it takes the last commit known for `revision`, if all its files are there. `only` and `ignore` are patterns
    of file names. The Hub is asked once whether it is there: the library itself would ask six times, for half a minute,
    and wait for an answer without end. Raises DataError that says what to do; `copy` is how a user would name a local
    copy.
    """
    from huggingface_hub import HfApi, snapshot_download

    allow, skip = (list(patterns) if patterns else None for patterns in (only, ignore))
    refused: Exception | None = None
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision or "main", timeout=PATIENCE_S)
    except hub_errors() as error:
        refused = error
    try:
        folder = snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            allow_patterns=allow,
            ignore_patterns=skip,
            local_files_only=refused is not None,
        )
    except hub_errors() as error:
        raise DataError(advice(name, kind, copy, revision, refused or error)) from error
    return Path(folder)


def hub_errors() -> tuple[type[Exception], ...]:
    """What the Hub library raises where the Hub cannot be reached, or refuses."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # the error class of httpx or of httpx2, depending on which the installed Hub library is built on
    failed_connection: type[Exception] = HfHubHTTPError.__bases__[0]
    return HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, failed_connection, ConnectionError


def advice(name: str, kind: Kind, copy: str, revision: str | None, error: Exception) -> str:
    """What went wrong with a download, and what to do."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, HFValidationError):
        return f"there is no {kind} {name}: give a directory, or a Hub id, org/name, of letters, digits, -, _ and ."
    if isinstance(error, GatedRepoError):
        return f"{name} is gated: accept its terms on the Hub and run `hf auth login`, or give a local copy as {copy}"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; give a branch, a tag or a commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the Hub has no public {kind} {name!r}, and there is no local file or directory of that name; "
            "check the name, or run `hf auth login`"
        )
    command = f"hf download {name} --local-dir DIR" + " --repo-type dataset" * (kind == "dataset")
    return (
        f"cannot reach the Hub for the {kind} {name!r} ({first_line(error, 120)}), and it is neither a local directory "
        f"nor complete in the cache; connect, or get a copy (`{command}` where there is a network) and give {copy}"
    )
