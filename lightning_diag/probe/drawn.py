"""Which positions of the data set each training batch holds: what the sampler gave, as it gave it.

Samplers run in the main process, workers or not, and an iterator of torch's `DataLoader` counts the
batches that it has handed out. So a batch is told from the number of its turn, whatever drew it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

_ATTRIBUTE = "_lightning_diag_drawn"
_HOOK = "process_dataloader"
_HELD = 64
"""Our choice: batches of indices that are held beyond those that workers load ahead."""


class Drawn:
    """Tells the positions of the samples of each training batch, for all who ask in one trainer.

    The loader gives the same batches, draws the same random numbers, and is as it was when the last
    one has left. Not known are the positions of an iterable data set, of several loaders at once,
    of loaders that are not torch's, of indices that are not whole numbers, and of batches that
    arrive in another order than they were drawn in.
    """

    _all: ClassVar[WeakKeyDictionary[Any, Drawn]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._owners: list[object] = []
        self._loaders: list[Any] = []
        self._undo: Callable[[], None] | None = None

    @classmethod
    def join(cls, trainer: Any, owner: object) -> Drawn:
        """Begin to take note, before the fit makes its loaders (``on_fit_start``)."""
        found = cls._all.get(trainer)
        if found is None:
            found = cls._all[trainer] = cls()
            found._undo = shown_loaders(trainer, found._adopt)
        found._owners.append(owner)
        return found

    def leave(self, trainer: Any, owner: object) -> None:
        """Take no more notes for `owner`; the last one leaves no trace. May be called again."""
        self._owners = [other for other in self._owners if other is not owner]
        if self._owners or self._undo is None:
            return
        self._undo()
        self._undo = None
        for loader in self._loaders:
            _release(loader)
        self._loaders = []
        if self._all.get(trainer) is self:
            del self._all[trainer]

    def _adopt(self, loader: Any) -> None:
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            _adopt(loader)
            self._loaders.append(loader)

    def positions(self, trainer: Any) -> Tensor | None:
        """Return the positions of the samples of the newest batch that training was given.

        Shape:
            ``(samples,)``, int64, on the host.
        """
        loop = trainer.fit_loop
        fetcher = getattr(loop, "_data_fetcher", None)
        combined = getattr(getattr(loop, "_combined_loader", None), "_iterator", None)
        iterators: Sequence[Any] = getattr(combined, "iterators", ())
        if len(iterators) != 1 or hasattr(fetcher, "iterator_wrapper"):
            return None
        live = iterators[0]
        turns = getattr(live, "_sampler_iter", None)
        if not isinstance(turns, _Turns) or not getattr(live, "_in_order", True):
            return None
        # where the length is not known, Lightning is a batch ahead to see the end
        ahead = len(getattr(fetcher, "batches", ()))
        return whole(turns.at(live._num_yielded - 1 - ahead))


def whole(indices: Any) -> Tensor | None:
    """Return what a sampler gave for a batch as a tensor; None if these are no positions.

    Example:
        >>> whole([3, 1]), whole(7), whole(["a.png"])
        (tensor([3, 1]), tensor([7]), None)
    """
    if isinstance(indices, str | bytes) or indices is None:
        return None
    try:
        found = torch.as_tensor(indices, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    is_whole = not found.is_floating_point() and not found.is_complex()
    if not is_whole or found.dtype is torch.bool or found.dim() > 1:
        return None
    return found.reshape(-1).to(torch.int64)


def shown_loaders(trainer: Any, see: Callable[[Any], object]) -> Callable[[], None]:
    """Show `see` each training loader as the strategy has made it ready, before it is iterated.

    Returns:
        What ends that; may be called again.
    """
    strategy = trainer.strategy
    known: _Listeners | None = strategy.__dict__.get(_ATTRIBUTE)
    listeners = _Listeners(trainer) if known is None else known
    strategy.__dict__[_ATTRIBUTE] = listeners
    listeners.append(see)

    def undo() -> None:
        if see in listeners:
            listeners.remove(see)
        if not listeners and strategy.__dict__.get(_ATTRIBUTE) is listeners:
            del strategy.__dict__[_ATTRIBUTE]
            listeners.end()

    return undo


class _Listeners(list[Callable[[Any], object]]):
    """Who is shown the loaders of a strategy."""

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self._trainer, self._process = trainer, trainer.strategy.process_dataloader
        self._own = trainer.strategy.__dict__
        self._before = self._own.get(_HOOK)
        self._shown = self._own[_HOOK] = self._processed

    def _processed(self, loader: Any) -> Any:
        loader = self._process(loader)
        if self._trainer.training and not self._trainer.sanity_checking:
            for listener in list(self):
                listener(loader)
        return loader

    def end(self) -> None:
        """Leave the strategy as it was, unless others listen in front, and pass on what we do."""
        if self._own.get(_HOOK) is not self._shown:
            return
        del self._own[_HOOK]
        if self._before is not None:
            self._own[_HOOK] = self._before


class _Turns:
    """One pass over what a sampler gives, with the newest turns held."""

    def __init__(self, indices: Iterator[Any], most: int) -> None:
        self._indices = indices
        self._count = 0
        self._held: deque[Any] = deque(maxlen=most)

    def __iter__(self) -> _Turns:
        return self

    def __next__(self) -> Any:
        indices = next(self._indices)
        self._count += 1
        self._held.append(indices)
        return indices

    def at(self, turn: int) -> Any:
        """Return what was given at a turn, counted from 0; None if that is no longer held."""
        place = turn - (self._count - len(self._held))
        return self._held[place] if 0 <= place < len(self._held) else None


class _Noted:
    """A sampler, or batch sampler, whose passes take notes."""

    def __init__(self, sampler: Any, most: int) -> None:
        self._sampler = sampler
        self._most = most

    def __iter__(self) -> _Turns:
        return _Turns(iter(self._sampler), self._most)

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


def _adopt(loader: Any) -> None:
    kind: Any = type(loader)
    loader.__dict__[_ATTRIBUTE] = _HELD + 2 * (loader.prefetch_factor or 0) * loader.num_workers
    if not getattr(kind, "_is_noted", False):
        loader.__class__ = _noting(kind)


def _release(loader: Any) -> None:
    """Have the loader be what it was, or where another one has derived from us, do as it did."""
    loader.__dict__.pop(_ATTRIBUTE, None)
    if type(loader).__dict__.get("_is_noted", False):
        loader.__class__ = type(loader).__mro__[1]


@functools.cache
def _noting(kind: type) -> Any:
    """Return a subclass of a loader's class, of the same name, whose iterators take notes."""

    def index_sampler(self: Any) -> Any:
        sampler = super(made, self)._index_sampler
        most = self.__dict__.get(_ATTRIBUTE)
        return sampler if most is None else _Noted(sampler, most)

    members = {
        "_index_sampler": property(index_sampler),
        "_is_noted": True,
        "_is_left": staticmethod(lambda loader: _ATTRIBUTE not in loader.__dict__),
    }
    made: Any = type(kind.__name__, (kind,), {**members, "__module__": kind.__module__})
    return made
