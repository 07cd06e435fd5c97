"""Reads what the user logged with `self.log`, without computing anything anew.

Lightning keeps it in private places, since its public dictionary tells neither who logged a number
nor whether more of it is better. Where a release keeps it elsewhere, nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor


class Logged(NamedTuple):
    """A number that the user logged."""

    name: str
    """As the user, and Lightning's callbacks, call it."""
    value: Tensor
    """A scalar, where it was computed."""
    higher_is_better: bool | None
    """What the metric that it comes from says; None for plain numbers."""


def logged_in_validation(trainer: Any) -> list[Logged]:
    """Return what the validation that has just ended logged, averaged over its batches."""
    found = []
    for item in _items(trainer.fit_loop.epoch_loop.val_loop):
        if item.meta.on_epoch and not item.has_reset:
            found += _logged(_name(item), item._computed, item)
    return found


def logged_in_step(trainer: Any) -> list[Logged]:
    """Return what the training step of the newest batch logged for itself."""
    found = []
    for item in _items(trainer.fit_loop.epoch_loop):
        if item.meta.on_step and not item.has_reset:
            found += _logged(_name(item), item._forward_cache, item)
    return found


def logged_in_epoch(trainer: Any) -> list[Logged]:
    """Return what the training epoch that has ended logged as a whole.

    Lightning computes it after the last hook of the epoch, and then forgets it but for the
    dictionary of its callbacks.
    """
    known = trainer.callback_metrics
    found = []
    for item in _items(trainer.fit_loop.epoch_loop):
        if item.meta.on_epoch:
            name = item.meta.forked_name(on_step=False)
            found += _logged(name, known.get(name), item)
    return found


def _items(loop: Any) -> Iterator[Any]:
    results = getattr(loop, "_results", None) or {}
    yield from [item for item in results.values() if hasattr(item, "meta")]


def _name(item: Any) -> str:
    meta = item.meta
    if meta.add_dataloader_idx and meta.dataloader_idx is not None:
        return f"{meta.name}/dataloader_idx_{meta.dataloader_idx}"
    return str(meta.name)


def _logged(name: str, value: Any, item: Any) -> list[Logged]:
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        return []
    better = None if item.is_tensor else getattr(item.value, "higher_is_better", None)
    return [Logged(name, value.detach().reshape(()), better)]
