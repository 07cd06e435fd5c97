"""What schedules will do, found out on copies: nothing that is given is touched.

An optimizer is stood in for by its groups alone, without weights; a scheduler is copied, and its
copy steps the stand-in.
"""

from __future__ import annotations

import io
import pickle
import random
import sys
import types
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Plan(NamedTuple):
    """When a scheduler is stepped."""

    scheduler: Any
    """Torch's, or what has a `step` as they have."""
    interval: str
    """``step`` or ``epoch``."""
    frequency: int = 1
    """Every so many intervals."""
    monitor: str | None = None
    """Metric that the scheduler is given."""
    on_plateau: bool = False
    """Whether it is stepped with a metric."""


class Length(NamedTuple):
    """How long a training is."""

    steps: int
    """Optimizer steps."""
    steps_per_epoch: int | None = None
    """Of these in an epoch; None for one epoch."""
    batches_per_step: int = 1
    """Batches that a step accumulates: what Lightning counts for `Plan.frequency`."""


class Course(NamedTuple):
    """What the groups of an optimizer do."""

    lrs: list[list[float]]
    """By group, with which each step is taken."""
    notes: list[str]
    """What cannot be seen there."""


def course(
    optimizer: Optimizer,
    plans: Sequence[Plan],
    length: Length,
    factor: Callable[[int, int], float] | None = None,
) -> Course:
    """Return the learning rates of an optimizer's groups over a training to come.

    Args:
        optimizer: Stays as it is.
        plans: Its schedulers, which stay as they are.
        length: Of the training.
        factor: Optimizer steps done and index of a group to a factor of its learning rate.

    Raises:
        TypeError: If a scheduler cannot be copied.
    """
    lrs: list[list[float]] = [[] for _ in optimizer.param_groups]
    with _same_random_states(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stand_in, copies = _copies(optimizer, plans)
        notes = [_on_plateau(plan) for plan in plans if plan.on_plateau]
        for step in range(length.steps):
            for i, group in enumerate(stand_in.param_groups):
                lrs[i].append(float(group["lr"]) * (1.0 if factor is None else factor(step, i)))
            stopped = _advance(copies, step, length)
            if stopped and step + 1 < length.steps:
                notes.append(stopped)
                break
    return Course(lrs, notes)


def _advance(plans: Sequence[Plan], step: int, length: Length) -> str:
    """Step what is due behind a step; say so if the training would stop there."""
    for plan in plans:
        if not plan.on_plateau and _is_due(plan, step, length):
            try:
                plan.scheduler.step()
            except ValueError as error:
                name = type(plan.scheduler).__name__
                return f"{name} ends the training after {step + 1} steps: {error}"
    return ""


def _is_due(plan: Plan, step: int, length: Length) -> bool:
    epoch, inside = divmod(step, length.steps_per_epoch or length.steps)
    if plan.interval == "step":
        # Lightning counts the batches of the epoch, and looks when an optimizer step is done.
        return (inside + 1) * length.batches_per_step % plan.frequency == 0
    return inside + 1 == length.steps_per_epoch and (epoch + 1) % plan.frequency == 0


def _on_plateau(plan: Plan) -> str:
    metric = f"`{plan.monitor}`" if plan.monitor else "its metric"
    name = type(plan.scheduler).__name__
    return f"{name} lowers the learning rate when {metric} stops improving: not drawn."


def is_on_plateau(scheduler: object) -> bool:
    """Tell whether a scheduler is stepped with a metric."""
    return isinstance(scheduler, ReduceLROnPlateau)


class _StandIn(Optimizer):
    """Groups and defaults of an optimizer, and nothing to optimize."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        # Not the parent's, which would look at the parameters and count as an optimizer made.
        self.defaults = defaults
        self.state = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._opt_called = True

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def raw(optimizer: Any) -> Any:
    """Return what Lightning wraps, and what is not wrapped as it is."""
    return getattr(optimizer, "optimizer", optimizer)


def _copies(optimizer: Optimizer, plans: Sequence[Plan]) -> tuple[_StandIn, list[Plan]]:
    """Return a stand-in, and the plans with copies of their schedulers that step it."""
    stand_in = _StandIn(dict(optimizer.defaults))
    nothing = torch.zeros(())
    groups = [
        {**group, "params": [nothing] * len(group["params"])} for group in optimizer.param_groups
    ]
    paper = io.BytesIO()
    copier = _Copier(paper, {id(raw(optimizer)): stand_in})
    try:
        copier.dump((groups, [plan.scheduler for plan in plans]))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise TypeError(
            f"The schedule cannot be drawn, since its scheduler cannot be copied ({error})."
        ) from error
    paper.seek(0)
    stand_in.param_groups, schedulers = _Reader(paper, copier.shared).load()
    return stand_in, [
        plan._replace(scheduler=copy) for plan, copy in zip(plans, schedulers, strict=True)
    ]


_KEPT = (
    nn.Module,
    nn.Parameter,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    weakref.ReferenceType,
)
"""What a copy shares with the original: what is big, or has nothing that steps could change."""


class _Copier(pickle.Pickler):
    """Copies as `copy.deepcopy`, except that some things are shared or stood in for."""

    def __init__(self, file: io.BytesIO, stand_ins: dict[int, _StandIn]) -> None:
        super().__init__(file, protocol=4)
        self.stand_ins = stand_ins
        self.shared: list[Any] = []
        self._known: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> int | None:
        """Return the place of what is not copied in `shared`, None for what is."""
        if id(thing) in self._known:
            return self._known[id(thing)]
        if isinstance(thing, Optimizer):
            return self._share(thing, self.stand_ins.get(id(raw(thing)), thing))
        if isinstance(thing, Tensor) and not isinstance(thing, nn.Parameter):
            return self._share(thing, thing.detach().clone())
        if isinstance(thing, _KEPT) or _is_foreign_method(thing) or _is_lightnings(thing):
            return self._share(thing, thing)
        return None

    def _share(self, thing: Any, instead: Any) -> int:
        self.shared.append(instead)
        self._known[id(thing)] = len(self.shared) - 1
        return len(self.shared) - 1


class _Reader(pickle.Unpickler):
    """Reads what `_Copier` wrote in this process."""

    def __init__(self, file: io.BytesIO, shared: Sequence[Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, place: int) -> Any:
        """Return what is shared."""
        return self._shared[place]


def _is_foreign_method(thing: Any) -> bool:
    """Tell whether this is a method of what is no scheduler, such as the user's module."""
    return isinstance(thing, types.MethodType) and not hasattr(thing.__self__, "last_epoch")


def _is_lightnings(thing: Any) -> bool:
    module = type(thing).__module__ or ""
    return module.split(".")[0] in ("lightning", "pytorch_lightning") and not hasattr(
        thing, "last_epoch"
    )


@contextmanager
def _same_random_states() -> Iterator[None]:
    """Leave all random states as they are: a function of the user's may draw numbers."""
    state = random.getstate()
    numpy = sys.modules.get("numpy")
    drawn = None if numpy is None else numpy.random.get_state()
    # Only devices that are in use, since asking starts the others.
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(list(cuda)):
            yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(drawn)
