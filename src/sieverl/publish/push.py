"""A model with its card to the Hugging Face Hub: private unless told otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sieverl.download import PATIENCE_S, hub_errors
from sieverl.errors import DataError, UsageError, first_line
from sieverl.publish.text import HUB

Result = TypeVar("Result")


class Api(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def repo_info(self, repo_id: str, *, timeout: float) -> Any: ...
    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...
    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any: ...


@dataclass(frozen=True)
class File:
    """A file that is uploaded, and its bytes."""

    name: str
    size: int


def files_of(folder: Path) -> list[File]:
    """The files of a folder, which are those that are uploaded."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [File(path.relative_to(folder).as_posix(), path.stat().st_size) for path in found]


def check_repo(repo: str) -> None:
    """Raise a UsageError unless it can be the name of a repository of the Hub."""
    if not HUB.fullmatch(repo) or re.search(r"--|\.\.|[.-]$", repo) or repo.endswith(".git") or len(repo) > 96:
        raise UsageError(f"--repo is {repo!r}; it takes ORG/NAME, in letters, digits, `-`, `_` and `.`")


def check_token(token: str | None) -> None:
    """Raise a UsageError without a token of the Hub."""
    if not token:
        raise UsageError(
            "there is no token of the Hub: run `hf auth login`, or set HF_TOKEN, with a token that may write "
            "(https://huggingface.co/settings/tokens); --dry-run needs none"
        )


def check_reachable(repo: str, public: bool, api: Api) -> None:
    """Ask the Hub once for the repository. Raises a DataError where it cannot be reached or lets nobody in.

    Raises a UsageError for a repository that is there and public, unless that is wanted.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.repo_info(repo, timeout=PATIENCE_S)
    except RepositoryNotFoundError:
        return
    except hub_errors() as error:
        raise DataError(refusal(repo, error)) from error
    if not found.private and not public:
        raise UsageError(f"{repo} is there and is public: --public uploads to it, or give another --repo")


def upload(folder: Path, repo: str, public: bool, message: str, api: Api) -> str:
    """Make the repository where it is not there, and upload the folder; the address of what was uploaded."""
    _asked(repo, lambda: api.create_repo(repo, private=not public, exist_ok=True))
    done = _asked(repo, lambda: api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message=message))
    return str(getattr(done, "repo_url", None) or f"https://huggingface.co/{repo}")


def _asked(repo: str, ask: Callable[[], Result]) -> Result:
    try:
        return ask()
    except hub_errors() as error:
        raise DataError(refusal(repo, error)) from error


def refusal(repo: str, error: Exception) -> str:
    """What the Hub says, or that it says nothing, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the Hub lets this token not write to {repo} ({first_line(error, 120)}); run `hf auth login` with a token "
            "that may write there, or give another --repo"
        )
    return (
        f"cannot reach the Hub for {repo} ({first_line(error, 120)}); connect and run the same command again, or make "
        "the folder with --dry-run --output DIR and upload it elsewhere with `hf upload`"
    )
