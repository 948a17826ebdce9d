"""Rows of datasets on the Hugging Face Hub: the revision is resolved to a commit first, and that commit is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sieverl.data.local import RawRow, dataset_rows, pick_split
from sieverl.data.locate import DatasetRef
from sieverl.download import download
from sieverl.errors import DataError, first_line


def hub_rows(ref: DatasetRef, split: str) -> tuple[Iterable[RawRow], str]:
    """The rows of one split of a Hub dataset, and the commit that they were read from.

    Raises DataError when the Hub cannot be reached and the dataset is not in its cache, or when it has no such split.
    """
    hub = str(ref.hub)
    folder = download(hub, "dataset", copy=f"{ref.name}@DIR" if ref.name else "DIR", revision=ref.revision)
    name = f"{hub}:{ref.config}" if ref.config else hub
    return repository_rows(folder, name, ref, split), folder.name


def repository_rows(folder: Path, name: str, ref: DatasetRef, split: str) -> Iterable[RawRow]:
    """The rows of one split of a local dataset repository, whose README names the files of each configuration."""
    import datasets

    splits = ref.spec.splits
    # A known dataset with one split (a benchmark calls it test or train) is read whatever split is asked for.
    split = splits.get(split, next(iter(splits.values())) if ref.name and len(splits) == 1 else split)
    try:
        found = datasets.load_dataset(str(folder), ref.config)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{name} cannot be loaded: {first_line(error)}") from error
    return dataset_rows(found[pick_split(split, found.keys(), name)], name)
