"""`plot_schedule`: learning rates of a training as a picture, before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.optim import Optimizer

from lightning_diag.figures.schedule import Line, schedule_figure
from lightning_diag.lr import checks
from lightning_diag.lr.simulate import Course, Length, Plan, course, is_on_plateau, raw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_diag.lr.warmup import WarmupLR

MOST_NAMES = 3
"""Groups of one line that are named. Our choice: what fits into a legend."""


def plot_schedule(
    optimizer: Any,
    scheduler: Any = None,
    *,
    steps: int,
    steps_per_epoch: int | None = None,
    accumulate_grad_batches: int = 1,
    warmup: Any = None,
    model: nn.Module | None = None,
    interval: Literal["step", "epoch"] = "step",
    log: bool = False,
    title: str = "Learning rate",
) -> Figure:
    """Draw the learning rates of a training before it begins.

    The schedule is run on copies that hold no weights. The optimizer, its schedulers and all random
    states stay bit for bit as they are; only what a function of your own, such as a ``LambdaLR``'s,
    remembers between calls cannot be kept from changing.

    Args:
        optimizer: An optimizer, or what ``configure_optimizers`` returns: then Lightning's rules
            hold, also that a scheduler steps once an epoch unless its dictionary says otherwise.
        scheduler: A scheduler of torch's kind, one of Lightning's dictionaries with ``scheduler``,
            ``interval`` and ``frequency``, or a list of them.
        steps: Optimizer steps to draw, at least 1.
        steps_per_epoch: Optimizer steps of an epoch, at least 1: marks epochs. What steps once an
            epoch needs it.
        accumulate_grad_batches: The Trainer's, at least 1. Lightning counts ``frequency`` in
            batches where the interval is ``step``.
        warmup: Callback `WarmupLR`, or any function of the optimizer steps done that returns a
            factor.
        model: Whose modules and names of parameters such a callback asks for, if it does.
        interval: When `scheduler` steps if it is not a dictionary.
        log: Whether the axis of the learning rate is logarithmic; what is 0 is not on it.
        title: What is above it.

    Returns:
        A figure with a line for each group that differs. What depends on a metric, as
        ``ReduceLROnPlateau``, stays where it is, and a note says so.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If there is no optimizer, or a scheduler cannot be copied.
        ValueError: If an argument is outside its range, a scheduler belongs to another optimizer,
            or `steps_per_epoch` is missing.

    Cost:
        About 10 microseconds for each step and scheduler.
    """
    checks.whole("steps", steps, 1)
    checks.whole("accumulate_grad_batches", accumulate_grad_batches, 1)
    checks.one_of("interval", interval, ("step", "epoch"))
    if steps_per_epoch is not None:
        checks.whole("steps_per_epoch", steps_per_epoch, 1)
    optimizers, plans = _read(optimizer, scheduler, interval)
    if steps_per_epoch is None and any(plan.interval == "epoch" for plan in plans):
        raise ValueError(
            "`steps_per_epoch` must be given where a scheduler steps once an epoch, which is "
            "Lightning's way unless its dictionary has `interval: step`, got None."
        )
    length = Length(steps, steps_per_epoch, accumulate_grad_batches)
    courses = []
    for i, each in enumerate(optimizers):
        own = [plan for plan in plans if raw(plan.scheduler.optimizer) is each]
        factor = _factor(warmup, optimizers, i, length, model)
        courses.append(course(each, own, length, factor))
    return schedule_figure(
        _lines(optimizers, courses),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        log=log,
        title=title,
        notes=list(dict.fromkeys(note for each in courses for note in each.notes)),
    )


def _factor(
    warmup: Any, optimizers: Sequence[Optimizer], index: int, length: Length, model: Any
) -> Callable[[int, int], float] | None:
    """Return a warm-up as a function of the steps that an optimizer has done, and the group."""
    if warmup is None:
        return None
    if callable(warmup):
        return lambda t, _: float(warmup(t))
    from lightning_diag.lr.warmup import WarmupLR  # noqa: PLC0415  # needs Lightning

    if isinstance(warmup, WarmupLR):
        return _of_callback(warmup, optimizers, index, length, model)
    kind = type(warmup).__name__
    raise TypeError(f"`warmup` must be a WarmupLR or a function of the steps done, got {kind}.")


def _of_callback(
    callback: WarmupLR, optimizers: Sequence[Optimizer], index: int, length: Length, model: Any
) -> Callable[[int, int], float] | None:
    """Ask a callback what it would do in a training of this length."""
    if callback.epochs is not None and length.steps_per_epoch is None:
        raise ValueError("`steps_per_epoch` must be given for a warm-up in epochs, got None.")
    trainer = SimpleNamespace(
        optimizers=optimizers,
        callbacks=[],
        max_epochs=None,
        max_steps=length.steps,
        num_training_batches=(length.steps_per_epoch or math.inf) * length.batches_per_step,
        accumulate_grad_batches=length.batches_per_step,
        is_global_zero=False,  # Nothing is printed.
    )
    parts: dict[str, Any] = dict.fromkeys(("modules", "named_parameters"), lambda: iter(()))
    if model is not None:
        parts = {"modules": model.modules, "named_parameters": model.named_parameters}
    elif callback.hold == "batch-norm":
        raise ValueError("`model` must be given for a warm-up that holds for batch norm, got None.")
    from lightning_diag.lr.select import selected  # noqa: PLC0415  # needs Lightning

    module = SimpleNamespace(automatic_optimization=True, **parts)
    chosen = selected(trainer, module, callback.parameters)[index]
    adjustment = callback.adjustment(trainer, module, index, chosen) if chosen else None
    return None if adjustment is None else adjustment.factor


def _read(optimizer: Any, scheduler: Any, interval: str) -> tuple[list[Optimizer], list[Plan]]:
    """Return the optimizers, and when their schedulers step."""
    if scheduler is None:
        optimizers, schedulers = _configured(optimizer)
        plans = [_plan(each, "epoch", monitor) for each, monitor in schedulers]
    else:
        optimizers = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        given = scheduler if isinstance(scheduler, list | tuple) else [scheduler]
        plans = [_plan(each, interval, None) for each in given]
    optimizers = [raw(each) for each in optimizers]
    for each in optimizers:
        if not isinstance(each, Optimizer):
            raise TypeError(
                "`optimizer` must be an optimizer, or what `configure_optimizers` returns, got "
                f"{type(each).__name__}."
            )
    for plan in plans:
        if not any(raw(plan.scheduler.optimizer) is each for each in optimizers):
            raise ValueError(
                f"`scheduler` must be one of the optimizer's, got a {type(plan.scheduler).__name__}"
                " of another optimizer: make it with the optimizer that is drawn."
            )
    return optimizers, plans


def _configured(returned: Any) -> tuple[list[Any], list[tuple[Any, str | None]]]:
    """Return optimizers and schedulers, with the metrics of these, as Lightning reads them."""
    if isinstance(returned, Mapping):
        returned = [returned]
    if not isinstance(returned, list | tuple):
        return [returned], []
    if returned and all(isinstance(each, Mapping) for each in returned):
        pairs = [(d["lr_scheduler"], d.get("monitor")) for d in returned if d.get("lr_scheduler")]
        return [each.get("optimizer") for each in returned], pairs
    if len(returned) == 2 and isinstance(returned[0], list | tuple):
        optimizers, schedulers = returned
        several = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
        return list(optimizers), [(each, None) for each in several]
    return list(returned), []


def _plan(scheduler: Any, interval: str, monitor: str | None) -> Plan:
    """Return when a scheduler steps: as its dictionary says, by Lightning's defaults."""
    config = dict(scheduler) if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
    if isinstance(scheduler, Mapping):
        interval = config.get("interval", "epoch")
        checks.one_of("interval", interval, ("step", "epoch"))
        checks.whole("frequency", config.get("frequency", 1), 1)
    stepped = config.get("scheduler")
    if not hasattr(stepped, "step") or not hasattr(stepped, "optimizer"):
        raise TypeError(
            f"`scheduler` must be a learning rate scheduler, got {type(stepped).__name__}."
        )
    on_plateau = config.get("reduce_on_plateau", is_on_plateau(stepped))
    name = config.get("monitor") or monitor or getattr(stepped, "monitor", None)
    # What waits for a metric is not stepped at all.
    return Plan(
        stepped, "step" if on_plateau else interval, config.get("frequency", 1), name, on_plateau
    )


def _lines(optimizers: Sequence[Optimizer], courses: Sequence[Course]) -> list[Line]:
    """Return a line for each group, or for several that have the same learning rates."""
    lines = []
    for i, (optimizer, each) in enumerate(zip(optimizers, courses, strict=True)):
        alike: dict[tuple[float, ...], list[str]] = {}
        for number, (group, lrs) in enumerate(zip(optimizer.param_groups, each.lrs, strict=True)):
            alike.setdefault(tuple(lrs), []).append(str(group.get("name", f"group {number}")))
        whose = _name(optimizers, i) if len(optimizers) > 1 else ""
        for values, names in alike.items():
            groups = _listed(names) if len(alike) > 1 else ""
            lines.append(Line(", ".join(part for part in (whose, groups) if part), values))
    return lines


def _name(optimizers: Sequence[Optimizer], i: int) -> str:
    """Return an optimizer's class, numbered as Lightning's LearningRateMonitor does."""
    kinds = [type(each).__name__ for each in optimizers]
    before = kinds[:i].count(kinds[i])
    return f"{kinds[i]}-{before}" if before else kinds[i]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
