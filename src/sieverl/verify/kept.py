"""Verdicts that outlive the process: a long file is verified in chunks, and each is kept until the whole is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from sieverl.files import user_path
from sieverl.run_dir.parts import Parts, digest_of
from sieverl.run_dir.versions import versions
from sieverl.types import JsonObject, Row, Status, Verdict
from sieverl.verify.verifier import Spec

CHUNK = 512  # pairs that are verified and kept together
PASSING = (Status.VERIFIER_TIMEOUT, Status.VERIFIER_ERROR)  # the machine may have caused them, so they are asked again

Pairs = Sequence[tuple[str, Row]]
Verdicts = Callable[[Pairs], Sequence[Verdict]]


def to_json(verdict: Verdict) -> JsonObject:
    """A verdict as JSON."""
    return {
        "reward": verdict.reward,
        "correct": verdict.correct,
        "status": verdict.status.value,
        "parts": dict(verdict.parts),
    }


def from_json(value: JsonObject) -> Verdict | None:
    """The verdict again; None for one that is to be asked for again. Raises KeyError, TypeError or ValueError."""
    status, reward, correct, parts = Status(value["status"]), value["reward"], value["correct"], value["parts"]
    rewards = [reward, *(part for part in parts.values() if part is not None)]
    if not isinstance(correct, bool) or not all(type(number) in (int, float) for number in rewards):
        raise TypeError("a verdict has a reward that is no number, or a `correct` that is neither true nor false")
    return None if status in PASSING else Verdict(float(reward), correct, status, parts)


def kept_verdicts(verdicts: Verdicts, pairs: Pairs, parts: Parts) -> list[Verdict]:
    """What `verdicts` says of each pair. Of the chunks in `parts` only timeouts and errors are asked for again."""
    found: list[Verdict] = []
    parts.report()
    for number, chunk in enumerate(chunks(pairs)):
        before = parts.read(number, lambda values: [from_json(value) for value in values])
        known = before if before and len(before) == len(chunk) else [None] * len(chunk)
        asked = iter(verdicts([pair for pair, verdict in zip(chunk, known, strict=True) if verdict is None]))
        scored = [verdict or next(asked) for verdict in known]
        if len(parts.keys) > 1 and scored != known:  # the output itself follows at once on an only chunk
            parts.write(number, [to_json(verdict) for verdict in scored])
        found += scored
    return found


def chunks(pairs: Pairs) -> list[Pairs]:
    """The pairs in order, `CHUNK` at a time."""
    return [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]


def chunk_keys(pairs: Pairs, *settings: object) -> list[str]:
    """The digest of each chunk and of the `settings` that decide its verdicts."""
    decides = digest_of(versions(), *settings)
    return [digest_of(decides, chunk) for chunk in chunks(pairs)]


def fingerprint(spec: Spec) -> str:
    """A digest of a specification and of the files of the functions that it names (not of what these import).

    >>> fingerprint({"name": "math"}) == fingerprint({"name": "math", "rules": "lenient"})
    False
    """
    return digest_of(spec, [file.read_bytes().hex() for file in user_files(spec)])


def user_files(value: object) -> list[Path]:
    """The Python files that the names in a specification point to, without importing any."""
    if isinstance(value, Mapping):
        return [file for key in sorted(value) for file in user_files(value[key])]
    if isinstance(value, list | tuple):
        return [file for item in value for file in user_files(item)]
    source = value.rpartition(":")[0] if isinstance(value, str) else ""
    file = user_path(source) if source.endswith(".py") else _module_file(source)
    return [file] if file and file.is_file() else []


def _module_file(module: str) -> Path | None:
    """The file of `a.b.c`; a package is not imported to look into it, as `find_spec` would."""
    path: Sequence[str] | None = ["", *sys.path]
    origin = None
    for end in range(1, module.count(".") + 2) if module.replace(".", "").isidentifier() else ():
        spec = PathFinder.find_spec(".".join(module.split(".")[:end]), path)
        if spec is None:
            return None
        origin, path = spec.origin, spec.submodule_search_locations
    return Path(origin) if origin else None
