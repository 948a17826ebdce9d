"""The rewards of the workloads as verifiers of SieveRL: `response, row -> reward`. Loaded by its worker processes."""

from __future__ import annotations

from collections.abc import Mapping

from bench import workloads


def even(response: str, row: Mapping[str, str]) -> float:
    """`workloads.even` with the answer of the row."""
    return workloads.even(response, row["answer"])
