"""`BackwardTap`: gradients of one backward pass, before they are accumulated or averaged (W15)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_diag.measure.moments import Scalar, added


@dataclass(frozen=True)
class Pass:
    """What the backward pass of one micro-batch computed on this rank."""

    samples: int
    """Of the micro-batch, 0 if unknown."""
    seen: dict[int, Scalar] = field(default_factory=dict)
    """What was measured, by the parameter's ``id``; NaN where several backward passes met."""

    def total(self, parameters: Iterable[nn.Parameter]) -> Scalar | None:
        """Return the sum over parameters; None if none of them was reached."""
        found = [self.seen[id(p)] for p in parameters if id(p) in self.seen]
        return added(found) if found else None


class BackwardTap:
    """Measures the gradient that each micro-batch's backward pass computes for each parameter.

    Autograd shows a leaf's gradient to the hooks of that leaf before it adds it to ``.grad``, and
    so before DDP averages it over ranks. Hooks change nothing and come off with `let_go`.

    Args:
        measure: What to compute of a gradient; must neither keep nor change it.
    """

    def __init__(self, measure: Callable[[Tensor], Scalar]) -> None:
        self._measure = measure
        self._handles: list[RemovableHandle] = []
        self.passes: list[Pass] = []
        """Of the step under way."""
        self.error: Exception | None = None
        """What `measure` raised: an error in a hook would end the user's backward pass."""

    def begin(self, samples: int, parameters: Iterable[nn.Parameter]) -> None:
        """Look at the gradients that these parameters get from a micro-batch."""
        self.let_go()
        now = Pass(samples)
        self.passes.append(now)
        for parameter in parameters:
            look = partial(self._look, now.seen, id(parameter))
            self._handles.append(parameter.register_hook(look))

    def let_go(self) -> None:
        """Remove all hooks. May be called at any time, and again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _look(self, seen: dict[int, Scalar], key: int, gradient: Tensor) -> None:
        if self.error is not None:
            return
        try:
            seen[key] = math.nan if key in seen else self._measure(gradient.detach())
        except Exception as error:  # noqa: BLE001  # raised again where the probe can take it
            self.error = error
