"""Multiplies the learning rate that an optimizer's step is taken with, and nothing else.

A parameter group holds the user's own learning rate at all times but during a step: schedulers,
whichever they are and however they compute, checkpoints and the user's code see what they would see
without us. So nothing has to be undone, scaled twice or told to a scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

_ATTRIBUTE = "_lightning_diag_lr"


def _always() -> bool:
    return True


@dataclass(eq=False)
class Adjustment:
    """What one callback does to one optimizer."""

    factor: Callable[[int, int], float]
    """Steps done and index of a parameter group to what its learning rate is multiplied by."""
    momentum: Callable[[int, int, float], float] | None = None
    """The same with the group's own momentum to the momentum to use instead."""
    until: float = math.inf
    """Steps from which on more steps make no difference: a skipped one is not looked for."""
    is_live: Callable[[], bool] = _always
    """Whether the optimizer's steps are those of the training that this is meant for."""
    steps: int = 0
    """Steps that the optimizer has done, those that a grad scaler skipped not counted."""


class _Held:
    """One value of a parameter group that is replaced for a while."""

    __slots__ = ("group", "key", "own", "shown", "version")

    def __init__(self, group: dict[str, Any], key: str, shown: Any) -> None:
        self.group, self.key, self.own, self.shown = group, key, group[key], shown
        self.version = 0
        if isinstance(self.own, Tensor):
            # In place: a captured or compiled step reads this very tensor.
            live = self.own
            self.own = live.clone()
            with torch.no_grad():
                live.copy_(shown)
            self.shown, self.version = live, live._version
        else:
            group[key] = shown

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has written to the tensor that was put there."""
        return not isinstance(self.shown, Tensor) or self.shown._version == self.version

    def release(self) -> None:
        """Put the group's own value back, unless somebody has set another in the meantime."""
        if self.group.get(self.key) is not self.shown or not self.is_untouched:
            return
        if isinstance(self.shown, Tensor):
            with torch.no_grad():
                self.shown.copy_(self.own)
        else:
            self.group[self.key] = self.own


@dataclass(eq=False)
class AppliedLR:
    """The adjustments of all callbacks to one optimizer, shared by them."""

    optimizer: torch.optim.Optimizer
    adjustments: list[Adjustment] = field(default_factory=list)
    _held: list[_Held] | None = None
    _is_stepping: bool = False
    _handles: list[RemovableHandle] = field(default_factory=list)

    @classmethod
    def of(cls, optimizer: Any) -> AppliedLR | None:
        """Return what is applied to an optimizer, None if nothing is."""
        return getattr(optimizer, _ATTRIBUTE, None)

    @classmethod
    def join(cls, optimizer: torch.optim.Optimizer, adjustment: Adjustment) -> AppliedLR:
        """Apply one more adjustment to an optimizer.

        Raises:
            TypeError: If it runs no hooks around its steps, as one of torch's would.
        """
        applied = cls.of(optimizer)
        if applied is None:
            if not getattr(type(optimizer).step, "hooked", False):
                raise TypeError(
                    f"The learning rate of {type(optimizer).__name__} cannot be adjusted, since it "
                    "does not run the hooks of torch.optim.Optimizer: derive it from that class, "
                    "and call its `__init__`."
                )
            applied = cls(optimizer)
            setattr(optimizer, _ATTRIBUTE, applied)
            applied._handles = [
                optimizer.register_step_pre_hook(applied._before_step),
                optimizer.register_step_post_hook(applied._after_step),
                optimizer.register_state_dict_post_hook(applied._correct_state),
            ]
        applied.adjustments.append(adjustment)
        return applied

    def leave(self, adjustment: Adjustment) -> None:
        """Take an adjustment back; the last one leaves no trace. May be called again."""
        self.hide()
        self.adjustments = [other for other in self.adjustments if other is not adjustment]
        if not self.adjustments:
            for handle in self._handles:
                handle.remove()
            self._handles = []
            self.optimizer.__dict__.pop(_ATTRIBUTE, None)

    def factors(self) -> list[float]:
        """Return what the learning rate of each group is multiplied by in the coming step."""
        live = [each for each in self.adjustments if each.is_live()]
        return [
            math.prod(each.factor(each.steps, i) for each in live)
            for i in range(len(self.optimizer.param_groups))
        ]

    def rates(self) -> list[float]:
        """Return the learning rate that the coming step of each group is taken with."""
        with self.shown():
            return [float(group["lr"]) for group in self.optimizer.param_groups]

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Have the groups hold what the coming step is taken with, for a while."""
        if self._held is not None:
            yield
            return
        self.show()
        try:
            yield
        finally:
            self.hide()

    def show(self) -> None:
        """Have the groups hold what the coming step is taken with; until `hide`."""
        if self._held is not None:
            return
        self._held = []
        for i, (group, factor) in enumerate(
            zip(self.optimizer.param_groups, self.factors(), strict=True)
        ):
            if factor != 1:
                self._held.append(_Held(group, "lr", group["lr"] * factor))
            self._show_momentum(i, group, self._held)

    def _show_momentum(self, index: int, group: dict[str, Any], held: list[_Held]) -> None:
        for each in self.adjustments:
            if each.momentum is None or each.steps >= each.until or not each.is_live():
                continue
            if "betas" in group:
                own, *rest = group["betas"]
                shown: Any = (each.momentum(each.steps, index, own), *rest)
                held.append(_Held(group, "betas", shown))
            elif "momentum" in group:
                shown = each.momentum(each.steps, index, group["momentum"])
                held.append(_Held(group, "momentum", shown))

    def hide(self) -> None:
        """Have the groups hold the user's own values again. May be called at any time."""
        held, self._held = self._held, None
        self._is_stepping = False
        for each in reversed(held or ()):
            each.release()

    def hide_unless_stepping(self) -> None:
        """The same, but not within a step, whose closure runs much of Lightning's code."""
        if not self._is_stepping:
            self.hide()

    def _before_step(self, *_: Any) -> None:
        # What is already shown may be from a step that failed, or of before the user set a rate.
        self.hide()
        self.show()
        self._is_stepping = True

    def _after_step(self, *_: Any) -> None:
        if not self._is_stepping:
            return  # `step` of a class that calls that of its parent: hooks run in both
        self.hide()
        waiting = [each for each in self.adjustments if each.is_live()]
        is_awaited = any(each.steps < each.until for each in waiting)
        if is_awaited and self._was_skipped():
            return
        for each in waiting:
            each.steps += 1

    def _was_skipped(self) -> bool:
        """Whether the optimizer itself left the weights alone, as fused ones do in fp16."""
        found = getattr(self.optimizer, "found_inf", None)
        return isinstance(found, Tensor) and bool(found)

    def _correct_state(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Have a checkpoint hold the user's own values, also one that is written in a step."""
        for each in reversed(self._held or ()):
            for live, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
                if live is each.group and saved[each.key] is each.shown and each.is_untouched:
                    own = each.own
                    saved[each.key] = own.clone() if isinstance(own, Tensor) else own


@contextmanager
def effective(optimizers: Sequence[Any]) -> Iterator[None]:
    """Have all groups of some optimizers hold the learning rates that steps are taken with.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> sgd = torch.optim.SGD([weight], lr=0.5)
        >>> halved = Adjustment(lambda t, group: 0.5)
        >>> applied = AppliedLR.join(sgd, halved)
        >>> with effective([sgd]):
        ...     print(sgd.param_groups[0]["lr"])
        0.25
        >>> sgd.param_groups[0]["lr"]
        0.5
        >>> applied.leave(halved)
    """
    with ExitStack() as stack:
        for optimizer in optimizers:
            applied = AppliedLR.of(optimizer)
            if applied is not None:
                stack.enter_context(applied.shown())
        yield
