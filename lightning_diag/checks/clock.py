"""Lets copied loaders look at the clock: reading samples may take an hour."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset


class TooSlow(BaseException):
    """Ends the reading of samples; data sets that go on after an `Exception` let it pass."""


def bounded(loader: Any, seconds: float) -> Any:
    """Return a loader's copy that stops reading when its time is up.

    Args:
        loader: The copy; anything but a `DataLoader` goes on as it is.
        seconds: From now on; a sample that is begun is read to its end.

    Raises:
        TooSlow: When it is iterated for longer, without worker processes; with them torch's own
            timeout ends it.
    """
    if not isinstance(loader, DataLoader) or seconds == math.inf:
        return loader
    if loader.num_workers:
        loader.__dict__["timeout"] = max(1.0, seconds)
        return loader
    dataset = loader.dataset
    if isinstance(dataset, Dataset):
        loader.__dict__["dataset"] = _timed(dataset, time.monotonic() + seconds)
    return loader


def _timed(dataset: Any, end: float) -> Any:
    """Return a copy of a data set, and of those in it, that looks at the clock at each sample."""
    dataset = copy.copy(dataset)
    inner = vars(dataset).get("dataset")
    if isinstance(inner, Dataset):  # subsets may read several samples at once
        vars(dataset)["dataset"] = _timed(inner, end)
    kind = type(dataset)

    def item(self: Any, index: Any) -> Any:
        _look(end)
        return kind.__getitem__(self, index)

    def walk(self: Any) -> Iterator[Any]:
        for sample in kind.__iter__(self):
            _look(end)
            yield sample

    own: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    if isinstance(dataset, IterableDataset):
        own["__iter__"] = walk
    else:
        own["__getitem__"] = item
    try:
        dataset.__class__ = type(kind.__name__, (kind,), own)
    except Exception:  # noqa: BLE001  # of a class that cannot be extended: without a clock
        return dataset
    return dataset


def _look(end: float) -> None:
    if time.monotonic() > end:
        raise TooSlow
