"""LSUV: weights scaled by what comes out of their layer, from the first to the last.

Mishkin and Matas run the network once for each layer and each try. Here a single pass is enough:
each layer is scaled when it is called, before anything behind it sees its output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_diag.initialisation.flow import Use
from lightning_diag.initialisation.follow import passed
from lightning_diag.initialisation.plan import Plan
from lightning_diag.initialisation.trace import Trace

_TRIES = 5
"""Bounds of the loop, as of the paper's T_max. With a bias of 0 the second try changes nothing."""
_TOLERANCE = 0.01
"""Our choice: the paper stops at 0.1; one more product costs little here."""


def scale_by_data(
    module: nn.Module, inputs: tuple[Any, ...], run: Callable[[], Any] | None, plan: Plan
) -> dict[str, str]:
    """Scale the weights of a plan so that what comes out of each layer has its variance.

    Returns:
        For each weight by what it was multiplied, or why it was not.
    """
    # The last layers of n branches that are added up get the variance 1 / n.
    targets = {
        row.name: 1 / math.sqrt(row.branches)
        for slot, row in zip(plan.slots, plan.rows, strict=True)
        if row.kind == "weight" and row.draw != "keep" and not slot.is_parametrized
    }
    tensors = {slot.name: slot.tensor for slot in plan.slots}
    scaling = _Scaling(module, tensors, targets)
    passed(module, inputs, run, scaling)
    return {name: scaling.done.get(name, "not scaled: its output was not seen") for name in targets}


class _Scaling(Trace):
    def __init__(
        self, module: nn.Module, tensors: dict[str, Tensor], targets: dict[str, float]
    ) -> None:
        super().__init__(module)
        self._tensors, self._targets = tensors, targets
        self.done: dict[str, str] = {}

    def layer(
        self, use: Use, x: Tensor, weight: Tensor, output: Tensor, again: Callable[[], Tensor]
    ) -> Tensor:
        """Scale the weight at its first call, and return what comes out then."""
        name = use.weight
        if name not in self._targets or name in self.done:
            return output
        whole = 1.0
        for _ in range(_TRIES):
            std = float(output.float().std())
            if not 0 < std < math.inf:
                self.done[name] = "not scaled: its output does not vary"
                return output
            factor = self._targets[name] / std
            if abs(factor - 1) < _TOLERANCE:
                break
            self._tensors[name].mul_(factor)
            whole *= factor
            output = again()
        self.done[name] = f"scaled by {whole:.3g}"
        return output
