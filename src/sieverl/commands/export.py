"""`sieverl export`: a trained model as a folder that any program loads."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

STEP_HELP = "which checkpoint of the run: a step, `best` (held-out accuracy) or `latest`; default: latest"
DTYPE_HELP = "bfloat16, float16 or float32; default: bfloat16"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl export`."""

    model: str
    output: str
    dtype: str
    step: str | None
    force: bool
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl export`."""
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="directory of a run or of a checkpoint")
    parser.add_argument("--output", metavar="DIR", required=True, help="the new folder")
    parser.add_argument("--dtype", default="bfloat16", help=DTYPE_HELP)
    parser.add_argument("--step", metavar="N|best|latest", help=STEP_HELP)
    parser.add_argument("--force", action="store_true", help="replace the model that is in the folder")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(options: Options) -> None:
    """Export, and say what was written."""
    from sieverl.display.terminal import Terminal
    from sieverl.publish.export import choose, export
    from sieverl.publish.push import files_of

    source, output = choose(options.model, options.step), Path(options.output).expanduser()
    notes = export(source, output, options.dtype, options.force)
    files = files_of(output)
    if options.json:
        table = {"output": str(output), "step": source.step, "dtype": options.dtype, "notes": notes}
        print(json.dumps(table | {"files": [vars(file) for file in files]}))
        return
    console = Terminal(soft_wrap=True, highlight=False)
    size = sum(file.size for file in files) / 1e6
    step = "" if source.step is None else f" after step {source.step}"
    console.print(f"{output}: the model{step}, {options.dtype}, {len(files)} files, {size:,.1f} MB")
    for note in notes:
        console.print(f"note: {note}")
