"""The first batches of loaders, taken from copies: no iterator, sampler or generator moves."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_diag.checks.around import one_way
from lightning_diag.checks.clock import TooSlow, bounded

WORKERS = 1
"""Worker processes at most. Our choice: a few batches need no more, and each takes its time to
start."""


class Unavailable(Exception):  # noqa: N818  # no error: the reason why something is not observed
    """Something that checks look at is not to be had; its text says why, as the end of a sentence.

    Example:
        >>> str(Unavailable("there are no training data"))
        'there are no training data'
    """


def first_batches(loaders: Any, n: int, seconds: float = math.inf) -> list[Any]:
    """Return the first batches that training would get, as it would get them.

    Loaders, samplers and generators are copied, and so are data sets that can be iterated only;
    others are not, since they may be large, but what they set on themselves is set on a shallow
    copy. Where the user has worker processes, one of them loads the batches.

    Args:
        loaders: A loader, or loaders in lists and dictionaries, as Lightning's Trainer takes them.
        n: Batches, at least 1; fewer are returned where there are no more.
        seconds: How long each loader may take; a sample that is begun is read to its end.

    Raises:
        Unavailable: If a loader can be iterated only once, has no batch, or takes too long.

    Example:
        >>> first_batches(DataLoader([1, 2, 3, 4], batch_size=2), 1)
        [tensor([1, 2])]
    """
    return _zipped(_structure(loaders), n, seconds)


def copies(loaders: Any) -> Any:
    """Return the same loaders as copies that may be iterated; as they are where that is not so."""
    loaders = _structure(loaders)
    if isinstance(loaders, DataLoader):
        try:
            return _copied(loaders)
        except Unavailable:
            return loaders
    if is_leaf(loaders):
        return loaders
    if isinstance(loaders, Mapping):
        return {name: copies(each) for name, each in loaders.items()}
    return [copies(each) for each in loaders]


def is_leaf(loaders: Any) -> bool:
    """Return whether this is one loader, and not several of them in a list or dictionary.

    Example:
        >>> is_leaf(DataLoader([1, 2])), is_leaf({"a": DataLoader([1, 2])})
        (True, False)
    """
    members = loaders.values() if isinstance(loaders, Mapping) else loaders
    if not isinstance(loaders, (Mapping, list, tuple)):
        return True
    return not any(isinstance(member, DataLoader) or not is_leaf(member) for member in members)


def leaves(loaders: Any) -> Iterator[Any]:
    """Yield each loader of a collection.

    Example:
        >>> [len(loader) for loader in leaves([DataLoader([1]), {"a": DataLoader([1, 2])}])]
        [1, 2]
    """
    loaders = _structure(loaders)
    if is_leaf(loaders):
        yield loaders
        return
    for member in loaders.values() if isinstance(loaders, Mapping) else loaders:
        yield from leaves(member)


def _structure(loaders: Any) -> Any:
    """Return the loaders that one of Lightning's `CombinedLoader` holds."""
    if type(loaders).__name__ != "CombinedLoader":
        return loaders
    if getattr(loaders, "_mode", "") == "sequential":
        return next(leaves(loaders.iterables))
    return loaders.iterables


def _zipped(loaders: Any, n: int, seconds: float) -> list[Any]:
    if is_leaf(loaders):
        return _taken(loaders, n, seconds)
    if isinstance(loaders, Mapping):
        columns = {name: _zipped(each, n, seconds) for name, each in loaders.items()}
        length = max(map(len, columns.values()))
        return [{k: batches[i % len(batches)] for k, batches in columns.items()}
                for i in range(length)]  # fmt: skip
    rows = [_zipped(each, n, seconds) for each in loaders]
    return [[batches[i % len(batches)] for batches in rows] for i in range(max(map(len, rows)))]


def _taken(loader: Any, n: int, seconds: float) -> list[Any]:
    if loader is None:
        raise Unavailable("there are no training data")
    kind = type(loader).__name__
    if hasattr(type(loader), "__next__"):
        raise Unavailable(f"the data ({kind}) can be iterated only once")
    iterator = None
    try:
        iterator = iter(bounded(_own(loader), seconds))
        batches = list(islice(iterator, n))
    except TooSlow:
        batches = None
    except RuntimeError as error:
        if "timed out" not in str(error):
            raise
        batches = None
        for worker in getattr(iterator, "_workers", ()):
            worker.terminate()  # it would read its batch to the end
    finally:
        # Worker processes end at once, and not when somebody collects garbage.
        shutdown = getattr(iterator, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()
    if batches is None:
        raise Unavailable(f"reading {n} batches takes more than {seconds:.3g} s")
    if not batches:
        raise Unavailable(f"the data ({kind}) have no batch")
    return batches


def _own(loader: Any) -> Any:
    """Return what can be iterated in place of a loader."""
    if isinstance(loader, DataLoader):
        return _copied(loader)
    if isinstance(loader, (list, tuple)):
        return loader
    _refuse_one_way(loader)
    inner = list(getattr(loader, "__dict__", {}).values())
    shared = {id(v): v for v in inner if isinstance(v, (Dataset, DataLoader, Tensor))}
    return _deep(loader, shared)


def _refuse_one_way(owner: Any) -> None:
    found = one_way(owner)
    if found:
        kind = type(owner).__name__
        raise Unavailable(f"{kind} draws from a {found}, and iterating it would use that up")


def _copied(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader that has all that changes while it is iterated to itself."""
    _refuse_open_iterator(loader)
    own = copy.copy(loader)
    dataset = _dataset(loader.dataset)
    memo: dict[int, Any] = {id(loader.dataset): dataset}
    for value in _drawn_from(loader):
        if id(value) not in memo:
            memo[id(value)] = value if isinstance(value, Dataset) else own_generator(value)
    changes: dict[str, Any] = {"dataset": dataset, "_iterator": None}
    for name in ("sampler", "batch_sampler", "generator"):
        changes[name] = _deep(getattr(loader, name), memo)
    if loader.num_workers > WORKERS:
        changes["num_workers"] = WORKERS
    changes |= {"persistent_workers": False, "pin_memory": False}
    # Loaders refuse to have these set.
    own.__dict__.update(changes)
    return own


def _refuse_open_iterator(loader: Any) -> None:
    held = {name: value for name, value in vars(loader).items() if name != "_iterator"}
    if any(hasattr(type(value), "__next__") for value in held.values()):
        kind = type(loader).__name__
        raise Unavailable(f"{kind} holds an open iterator, which iterating a copy would move")


def _dataset(dataset: Any) -> Any:
    if isinstance(dataset, IterableDataset):
        _refuse_one_way(dataset)
        return _deep(dataset, {})
    if not isinstance(dataset, Dataset):
        return dataset
    own = copy.copy(dataset)
    for name in ("dataset", "datasets"):
        inner = vars(own).get(name) if hasattr(own, "__dict__") else None
        if isinstance(inner, Dataset):
            setattr(own, name, _dataset(inner))
        elif isinstance(inner, list):
            setattr(own, name, [_dataset(each) for each in inner])
    return own


def _deep(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:
        kind = type(value).__name__
        message = f"{kind} cannot be copied, and iterating it would use it up: {error}"
        raise Unavailable(message) from error


def _drawn_from(loader: DataLoader[Any]) -> list[Any]:
    """Return the generators and data sets that a loader and its samplers hold."""
    owners: list[Any] = [loader, loader.sampler, loader.batch_sampler]
    owners.append(getattr(loader.batch_sampler, "sampler", None))
    values = [value for owner in owners for value in getattr(owner, "__dict__", {}).values()]
    return [value for value in values if isinstance(value, (torch.Generator, Dataset))]


def own_generator(generator: torch.Generator) -> torch.Generator:
    """Return a generator of the same state, which draws the same numbers."""
    own = torch.Generator(generator.device)
    own.set_state(generator.get_state())
    return own


def clone(batch: Any) -> Any:
    """Return a batch with tensors of its own: a step may change what it gets.

    Example:
        >>> batch = {"x": torch.zeros(2)}
        >>> _ = clone(batch)["x"].add_(1)
        >>> batch["x"]
        tensor([0., 0.])
    """
    try:
        return copy.deepcopy(batch)
    except Exception as error:
        kind = type(batch).__name__
        raise Unavailable(f"a batch ({kind}) cannot be copied: {error}") from error
