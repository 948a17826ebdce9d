"""Whether all ranks of a run see the same directory and the same prompts."""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from sieverl.distributed.world import World
from sieverl.errors import DataError, UsageError
from sieverl.files import existing_parent
from sieverl.types import Prompt


def check_shared(run_dir: Path, world: World) -> None:
    """Rank 0 makes a file for the time of the check where the run directory is, or will be; the others look for it.

    Raises a UsageError on every rank if one does not see it: it would resume another run, or none. Costs two gathers
    of a few bytes; one process has nothing to check.
    """
    if world.size == 1:
        return
    here = existing_parent(run_dir)
    below = str(run_dir.absolute().relative_to(here))  # what is not there yet
    with ExitStack() as until_seen:
        made = ""
        if world.rank == 0:
            made = until_seen.enter_context(tempfile.NamedTemporaryFile(prefix=".sieverl-", dir=here)).name
        first, first_below = world.all_gather((Path(made).name, below))[0]
        found = (here / first).exists() and below == first_below
        seen = world.all_gather((socket.gethostname(), str(run_dir.absolute()), found))
    if blind := [f"rank {rank} ({host}: {path})" for rank, (host, path, same) in enumerate(seen) if not same]:
        raise UsageError(
            f"{', '.join(blind)} does not see the run directory of rank 0 ({seen[0][0]}: {seen[0][1]}); all ranks need "
            "the same one: put it on storage that all machines share, and give it with --run-dir /SHARED/DIR"
        )


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of what prompts ask, and of the answers and other columns that their verifier sees."""
    digest = hashlib.sha256()
    for prompt in prompts:
        about = f"{prompt.id}\0{prompt.text}\0{prompt.messages}\0{sorted(prompt.row.items())}\0"
        digest.update(about.encode(errors="surrogatepass"))
    return digest.hexdigest()


def check_same_prompts(prompts: Iterable[Prompt], world: World) -> None:
    """Raises a DataError on every rank if one has read other prompts than rank 0, such as a file of its own."""
    if world.size == 1:
        return
    read = world.all_gather((socket.gethostname(), prompts_digest(prompts)))
    if others := [f"rank {rank} ({host})" for rank, (host, found) in enumerate(read) if found != read[0][1]]:
        raise DataError(
            f"{', '.join(others)} read other prompts than rank 0 ({read[0][0]}); give all machines the same data.source"
        )
