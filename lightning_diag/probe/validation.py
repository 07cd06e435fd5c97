"""`ValidationWatch`: which batches of which validations are watched, and what that costs (W13)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from lightning_diag.measure.base import LossCall
from lightning_diag.measure.order import Order, order_of
from lightning_diag.probe.clock import Clock
from lightning_diag.probe.eager import EagerStep
from lightning_diag.probe.guard import Guard
from lightning_diag.probe.loss_watch import LossWatch
from lightning_diag.probe.observer import Observer
from lightning_diag.probe.run import Run
from lightning_diag.probe.schedule import Budget, Times

_MOST = 64
"""Our choice: batches of a validation that are watched, evenly spread."""
_STEPS_EACH = 16
"""Our choice: training steps to each batch that is watched, beyond the first 64 batches."""
_TIMED = 15
"""Batches of each kind that are timed, as of training's steps."""


class ValidationWatch:
    """Shows the loss calls of some batches of validations to observers that look at them.

    A validation is watched as a whole, or where it has more than 64 batches at 64 of them, evenly
    spread and others the next time, as soon as there were 16 training steps to each watched batch;
    the first one is, and the last. None is once watching takes more time than it may. All of that
    is decided alike on every rank, and nothing here waits for others.

    Args:
        run: The trainer and its module.
        modules: Path of each module that may be running, by ``id``.
        observers: All of the fit's.
        guard: Switches off those that fail.
        eager: What runs compiled modules in watched batches.
        clock: Measures on the host or on the device.
        state: What `state_dict` returned.
    """

    def __init__(
        self,
        run: Run,
        modules: Mapping[int, str],
        observers: Sequence[Observer],
        *,
        guard: Guard,
        eager: EagerStep,
        clock: Clock,
        state: Mapping[str, Any],
    ) -> None:
        self._run = run
        self._observers = [
            observer
            for observer in observers
            if type(observer).validation_loss is not Observer.validation_loss
        ]
        self._guard = guard
        self._eager = eager
        self._clock = clock
        self._watch = LossWatch(modules, self._show)
        self._batches = int(state.get("batches", 0))
        self._rounds = int(state.get("rounds", 0))
        self._total: int | None = None
        self._is_on = self._is_watching = False
        self._step = self._number = self._watched = 0
        self._inside = 0.0
        self._start: Any = None
        self._spans: dict[bool, list[tuple[Any, Any]]] = {False: [], True: []}
        self._plain: float | None = None

    def begin(self, steps: int, *, affordable: bool) -> None:
        """Decide whether to watch the validation that begins.

        Args:
            steps: Optimizer steps so far.
            affordable: Whether the time that watching may cost is not spent yet.
        """
        self._step = max(0, steps - 1)
        self._number, self._watched, self._inside = 0, 0, 0.0
        self._spans = {False: [], True: []}
        if not self._observers:
            return
        self._total = validation_batches(self._run.trainer)
        wanted = _MOST if self._total is None else min(self._total, _MOST)
        left = _MOST + steps // _STEPS_EACH - self._batches
        self._is_on = affordable and (wanted <= left or _is_last(self._run.trainer))
        self._rounds += self._is_on

    def _is_chosen(self) -> bool:
        """Whether the coming batch is one of those that are watched."""
        total = self._total
        if total is None or total <= _MOST:
            return self._number < _MOST
        return (self._number + self._rounds - 1) * _MOST % total < _MOST

    def batch_start(self, batch: Any, batch_idx: int, loader: int) -> None:
        """Watch a batch, or not."""
        if not self._observers:
            return
        began = time.perf_counter()
        is_chosen = self._is_on and self._is_chosen()
        self._number += 1
        self._batches += is_chosen
        self._is_watching = is_chosen and self._eager.allowed()
        if self._is_watching:
            self._watched += 1
            with torch.no_grad():
                for observer in self._observers:
                    see = observer.validation_started
                    self._guard.run(observer, see, batch, batch_idx, loader, self._step)
            self._eager.start()
            self._watch.start()
            self._inside += time.perf_counter() - began
        if len(self._spans[self._is_watching]) < _TIMED:
            self._start = self._clock.stamp()

    def batch_end(self) -> None:
        """Look away."""
        if self._start is not None:
            self._spans[self._is_watching].append((self._start, self._clock.stamp()))
            self._start = None
        if self._is_watching:
            self.let_go()

    def let_go(self) -> None:
        """Detach everything. May be called at any time, and again."""
        if self._is_watching:
            self._watch.stop()
            self._eager.stop()
        self._is_watching = False
        self._start = None

    def end(self) -> float:
        """Return the seconds that watching this validation took, of its batches and in here.

        Batches are compared with unwatched ones, of an earlier validation if need be.
        """
        self.let_go()
        seconds, self._is_on = self._inside, False
        watched, plain = (self._median(kind) for kind in (True, False))
        self._plain = self._plain if plain is None else plain
        if watched is not None and self._plain is not None:
            seconds = max(seconds, self._watched * (watched - self._plain))
        return seconds

    def _median(self, kind: bool) -> float | None:  # noqa: FBT001  # the key of a dictionary
        found = [self._clock.seconds(start, end) for start, end in self._spans[kind]]
        known = [seconds for seconds in found if seconds is not None]
        return median(known) if known else None

    def _show(self, call: LossCall) -> None:
        began = time.perf_counter()
        for observer in self._observers:
            self._guard.run(observer, observer.validation_loss, call)
        self._inside += time.perf_counter() - began

    def state_dict(self) -> dict[str, int]:
        """Return counters, in plain values."""
        return {"batches": self._batches, "rounds": self._rounds}


def affordable(budget: Budget, steps: int, watched: int, times: Times, extra: float) -> bool:
    """Whether watching has cost no more than it may.

    Args:
        budget: What it may cost.
        steps: Optimizer steps so far.
        watched: How many of them were watched.
        times: What watched and unwatched steps take, the same on all ranks.
        extra: Seconds spent on more than watching steps, the same on all ranks.

    Example:
        >>> affordable(Budget(startup_seconds=1.0), 10, 5, Times(plain=0.1, watched=0.2), 0.4)
        True
        >>> affordable(Budget(startup_seconds=1.0), 10, 5, Times(plain=0.1, watched=0.2), 0.6)
        False
    """
    each = times.watched if times.cost is None else times.cost
    allowed = budget.startup_seconds + budget.max_overhead * times.plain * steps
    return watched * each + extra <= allowed


def _is_last(trainer: Any) -> bool:
    """Whether training ends with the epoch's last batch that was just taken, or with its steps."""
    epochs = trainer.max_epochs
    in_last = epochs is not None and 0 < epochs <= trainer.current_epoch + 1
    return bool(in_last and trainer.is_last_batch) or 0 < trainer.max_steps <= trainer.global_step


def validation_orders(trainer: Any) -> list[Order | None]:
    """Return the order of each validation loader, [] where batches of several come together."""
    combined = _combined(trainer)
    if getattr(combined, "_mode", None) != "sequential":
        return []
    return [order_of(loader) for loader in combined.flattened]


def validation_batches(trainer: Any) -> int | None:
    """Return the batches that the validation under way has on this rank, None if not known."""
    sizes = list(trainer.fit_loop.epoch_loop.val_loop.max_batches)
    in_turn = getattr(_combined(trainer), "_mode", None) == "sequential"
    total = sum(sizes) if in_turn else max(sizes, default=0)
    return None if math.isinf(total) else int(total)


def _combined(trainer: Any) -> Any:
    return getattr(trainer.fit_loop.epoch_loop.val_loop, "_combined_loader", None)
