"""Counts the steps of each optimizer, and shows the watched ones to the observers (P11, P35)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from lightning_diag.measure.tally import Tally
from lightning_diag.probe.guard import Guard
from lightning_diag.probe.observer import Observer
from lightning_diag.probe.run import OptimizerStep, Run

_RECENT = 32
"""Our choice: an optimizer that did not step within so many steps is not waited for."""


class OptimizerSteps:
    """Follows the optimizers of a trainer through one fit.

    Args:
        run: The trainer and its parameters.
        counts: Steps that each optimizer took before this fit.
    """

    def __init__(self, run: Run, counts: Sequence[int]) -> None:
        self._run = run
        self._indices = {id(optimizer): i for i, optimizer in enumerate(run.trainer.optimizers)}
        known = list(counts)[: len(self._indices)]
        self.counts = known + [0] * (len(self._indices) - len(known))
        """Steps that each optimizer has taken, those that a grad scaler skipped included."""
        self._last = [-_RECENT] * len(self._indices)
        self._handles: list[RemovableHandle] = []
        self.watched: dict[int, OptimizerStep] = {}
        """The watched steps of the current window, by optimizer."""

    def count(self, optimizer: Any, now: int) -> int | None:
        """Count one step of `optimizer`; return its index, None for a stranger."""
        optimizer = getattr(optimizer, "optimizer", optimizer)
        index = self._indices.get(id(optimizer))
        if index is not None:
            self.counts[index] += 1
            self._last[index] = now
        return index

    def watch(
        self,
        index: int,
        observers: Sequence[Observer],
        guard: Guard,
        tally: Tally,
    ) -> None:
        """Show the coming step of optimizer `index` to the observers, before and after it."""
        if index in self.watched:
            return
        step = self._run.optimizer_step(index)
        self.watched[index] = step
        for observer in observers:
            guard.run(observer, observer.gradients, step, tally)

        def after(optimizer: Any, *_: Any) -> None:
            if step.taken:
                return
            step.taken = True
            step.skipped = getattr(optimizer, "found_inf", None)
            with torch.no_grad():
                for observer in observers:
                    guard.run(observer, observer.stepped, step, tally)

        optimizer = self._run.trainer.optimizers[index]
        if isinstance(optimizer, torch.optim.Optimizer):
            self._handles.append(optimizer.register_step_post_hook(after))
        else:
            self._handles.append(_Late(lambda: after(optimizer)))

    def end_window(self, observers: Sequence[Observer], guard: Guard, tally: Tally) -> None:
        """Tell the observers of the steps that did not happen; let go of the optimizers."""
        for handle in self._handles:
            if isinstance(handle, _Late):
                handle.call()
        self.let_go()
        for step in self.watched.values():
            if not step.taken:
                for observer in observers:
                    guard.run(observer, observer.skipped, step, tally)
        self.watched.clear()

    def let_go(self) -> None:
        """Remove all hooks. May be called at any time, and again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def awaited(self, now: int) -> bool:
        """Whether an optimizer that still steps now and then has not been seen in this window."""
        return any(
            index not in self.watched and now - last < _RECENT
            for index, last in enumerate(self._last)
        )


class _Late(RemovableHandle):
    """Stands in for a hook on an optimizer that has none: its step is looked at afterwards."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def remove(self) -> None:
        """Do nothing: nothing was attached."""
