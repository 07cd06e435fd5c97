"""`Estimate`: what a step and an epoch take, in time and memory, from a few steps of a copy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.footprint import (
    Footprint,
    SavedBytes,
    bytes_of,
    in_bytes,
    state_bytes,
)
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin, running, said

STEPS = 3
"""Steps that are timed, after a first one which is not. Our choice: their median leaves out the one
that something else came in between."""
SECONDS = 0.5
"""Time after which no further step is timed (our choice: with slow steps one tells enough)."""


@dataclass(frozen=True)
class Estimate:
    """What training takes, from a few steps of a copy: forward, backward and optimizer."""

    step_seconds: float
    """Median of the timed steps; a step is a batch."""
    fastest_seconds: float
    """The fastest of them."""
    steps: int
    """Steps that were timed."""
    batches: int | None
    """Batches of an epoch; None where loaders do not know."""
    footprint: Footprint
    device: str
    """Where the steps ran, such as ``cpu``."""

    @property
    def epoch_seconds(self) -> float | None:
        """Time of an epoch's steps, without validation and without waiting for data."""
        return None if self.batches is None else self.batches * self.step_seconds

    @property
    def line(self) -> str:
        """One sentence for people."""
        step = f"{in_time(self.step_seconds)} a step on {self.device}"
        if self.epoch_seconds is None:
            pace = f"About {step}"
        else:
            pace = (
                f"An epoch: about {in_time(self.epoch_seconds)}, {self.batches:,} batches, {step}"
            )
        parts = self.footprint
        return (
            f"{pace}. Memory: about {in_bytes(parts.total)} (weights {in_bytes(parts.weights)}, "
            f"gradients {in_bytes(parts.gradients)}, optimizer {in_bytes(parts.optimizer)}, "
            f"activations {in_bytes(parts.activations)})."
        )


def in_time(seconds: float) -> str:
    """Write a time.

    Example:
        >>> in_time(0.0042), in_time(90), in_time(5400), in_time(200_000)
        ('4.2 ms', '1.5 min', '1.5 h', '2.3 days')
    """
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else (
                f"{seconds / size:,.0f} {unit}"
            )  # fmt: skip
    return f"{1000 * seconds:.2g} ms"


def estimate_of(subject: Subject) -> Estimate:
    """Return what a subject's training takes; measured once.

    Raises:
        Unavailable: If no step can be run.
    """
    estimate: Estimate = subject._once("estimate", lambda: _measured(subject))
    subject.results["estimate"] = estimate
    return estimate


def _measured(subject: Subject) -> Estimate:
    twin = subject.copy()
    footprint = _footprint(twin, subject.batch())
    times: list[float] = []
    while len(times) < STEPS and sum(times) < SECONDS and subject.time_left > 0:
        times.append(_timed(twin, subject.batch(len(times) % len(subject.batches)), len(times) + 1))
    if not times:
        raise Unavailable("the checks before it took all the time there is")
    batches = twin.trainer.num_training_batches
    return Estimate(
        step_seconds=median(times),
        fastest_seconds=min(times),
        steps=len(times),
        batches=int(batches) if math.isfinite(batches) else None,
        footprint=footprint,
        device=str(twin.device),
    )


def _footprint(twin: Twin, batch: Any) -> Footprint:
    """Run the first step, and count what it needs."""
    module = twin.module
    batch = twin.moved(batch)
    held = [*module.parameters(), *module.buffers()]
    saved = SavedBytes(held)
    with device_peak(twin.device) as peak, saved.counting():
        train_step(twin, batch, 0, keeps_gradients=True)
    trained = [p for p in module.parameters() if p.requires_grad]
    if module.automatic_optimization:
        trained = [p.grad for p in trained if p.grad is not None]
    # Else the module has cleared them, and may have had all of them.
    gradients = bytes_of(trained)
    state = state_bytes(_optimizers(twin))
    activations = saved.peak
    on_top = peak()
    if on_top is not None:
        activations = max(activations, on_top - gradients - state)
    # Materialised by the first batch where layers are lazy.
    weights = bytes_of([*module.parameters(), *module.buffers()])
    return Footprint(weights, gradients, state, activations, measured=on_top is not None)


@contextmanager
def device_peak(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Yield a function for the bytes that came on top on a device; of None where it does not count.

    The statistics of CUDA are the user's and are not reset: a peak that is not above an earlier
    one is not known.
    """
    if device.type != "cuda":
        yield lambda: None
        return
    before, start = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    ends: list[int] = []
    yield lambda: ends[0] - start if ends and ends[0] > before else None
    ends.append(torch.cuda.max_memory_allocated(device))


def _timed(twin: Twin, batch: Any, batch_idx: int) -> float:
    settle(twin.device)
    began = time.perf_counter()
    train_step(twin, twin.moved(batch), batch_idx)
    settle(twin.device)
    return time.perf_counter() - began


def settle(device: torch.device) -> None:
    """Wait until a device has done all it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def train_step(twin: Twin, batch: Any, batch_idx: int, *, keeps_gradients: bool = False) -> None:
    """Train a copy on a batch: forward, backward, and a step of its optimizers.

    Raises:
        Unavailable: If the module's code fails, or there is nothing to train with.
    """
    if not twin.module.automatic_optimization:
        twin.step(batch, batch_idx)
        return
    optimizers = _optimizers(twin)

    def closure() -> Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = twin.loss(batch, batch_idx)
        loss.mean().backward()
        return loss

    with running(), said("a step of training failed"):
        for optimizer in optimizers:
            optimizer.step(closure)
        for optimizer in optimizers if not keeps_gradients else ():
            optimizer.zero_grad()


def _optimizers(twin: Twin) -> Sequence[Any]:
    """Return torch's optimizers of a copy, and not what stands where there is none."""
    real = [each for each in twin.optimizers if type(each).__name__ != "_MockOptimizer"]
    if not real:
        raise Unavailable("`configure_optimizers` returned no optimizer")
    return real
