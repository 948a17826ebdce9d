"""`sieverl push`: a run's model with its card to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.commands.export import DTYPE_HELP, STEP_HELP
from sieverl.errors import DataError

if TYPE_CHECKING:
    from sieverl.publish.export import Source
    from sieverl.run_dir.saved import SavedRun


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl push`."""

    run: str
    repo: str
    public: bool
    dry_run: bool
    output: str | None
    dtype: str
    step: str | None
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl push`."""
    parser.add_argument("run", metavar="RUN", help="directory of a run")
    parser.add_argument("--repo", metavar="ORG/NAME", required=True, help="repository on the Hub, made if need be")
    parser.add_argument("--public", action="store_true", help="let everybody see it")
    parser.add_argument("--dry-run", action="store_true", help="upload nothing; print what would be")
    parser.add_argument("--output", metavar="DIR", help="keep what is uploaded in this new folder")
    parser.add_argument("--dtype", default="bfloat16", help=DTYPE_HELP)
    parser.add_argument("--step", metavar="N|best|latest", help=STEP_HELP)
    parser.add_argument("--json", action="store_true", help="print what is uploaded as JSON")


def run(options: Options) -> None:
    """Check, export, write the card, and upload."""
    from huggingface_hub import HfApi, get_token

    from sieverl.publish.push import check_reachable, check_repo, check_token, upload

    check_repo(options.repo)
    api = HfApi()
    if not options.dry_run:
        check_token(get_token())
        check_reachable(options.repo, options.public, api)
    saved, source = chosen(options)  # before a folder is made
    with folder_for(options.output) as folder:
        step, text, notes = prepare(options, saved, source, folder)
        url = None
        if not options.dry_run:
            url = upload(folder, options.repo, options.public, f"Step {step}, trained by SieveRL", api)
        show(options, folder, text, notes, url)


@contextmanager
def folder_for(output: str | None) -> Iterator[Path]:
    """The folder that is uploaded: a new one that stays, or one for the time being."""
    if output is not None:
        yield Path(output).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="sieverl-push-") as made:
        yield Path(made) / "model"


def chosen(options: Options) -> tuple[SavedRun, Source]:
    """The run, and the checkpoint of it that is uploaded. Raises a DataError where there is none."""
    from sieverl.publish.export import choose
    from sieverl.run_dir.saved import SavedRun

    saved, source = SavedRun.read(Path(options.run).expanduser()), choose(options.run, options.step)
    if source.step is None:
        raise DataError(f"{options.run} has no checkpoint; a run writes one at its end")
    return saved, source


def prepare(options: Options, saved: SavedRun, source: Source, folder: Path) -> tuple[int, str, list[str]]:
    """Write model and card into the folder: the step, the card's text, and what there is to say."""
    from sieverl.publish.card import card
    from sieverl.publish.export import export

    assert source.step is not None
    made = card(saved, options.repo, source.step, options.dtype)  # before the model, which may take long
    notes = export(source, folder, options.dtype)
    text = str(made)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return source.step, text, notes


def show(options: Options, folder: Path, text: str, notes: list[str], url: str | None) -> None:
    """Say what is, or would be, uploaded."""
    from sieverl.display.terminal import Terminal
    from sieverl.publish.push import files_of

    files, seen = files_of(folder), "public" if options.public else "private"
    if options.json:
        table = {"repo": options.repo, "private": not options.public, "url": url, "notes": notes, "card": text}
        print(json.dumps(table | {"files": [vars(file) for file in files]}))
        return
    console = Terminal(soft_wrap=True, highlight=False)
    if options.dry_run:
        console.print(text)
    what = f"{options.repo} ({seen}), {len(files)} files, {sum(file.size for file in files) / 1e6:,.1f} MB"
    console.print(f"would upload to {what}:" if options.dry_run else f"uploaded to {what}: {url}")
    for file in files:
        console.print(f"  {file.size:>14,}  {file.name}")
    if options.output:
        console.print(f"kept in {folder}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
