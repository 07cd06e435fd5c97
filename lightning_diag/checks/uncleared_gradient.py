"""`UnclearedGradient`: manual optimisation that adds gradients to those of the step before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.probe.places import named_parameters
from lightning_diag.wording import listing


@dataclass(frozen=True)
class UnclearedGradient(Check):
    """Manual optimisation that never clears gradients, so that each step takes all before it.

    What it sees:
        Steps of a copy with manual optimisation: gradients that arrive at a parameter while it
        holds those that its optimizer has taken a step with already, and that are still there at
        its next step; in `times` steps of an optimizer. With automatic optimisation Lightning
        clears them.

    Why it matters:
        Gradients of old weights add up: steps grow, and go where the loss was steep long ago.

    What to do:
        Call `zero_grad` before each backward pass that begins a step.

    References:
        Lightning documentation, Manual Optimization.
    """

    code: ClassVar[str] = "uncleared-gradient"
    family: ClassVar[str] = "losses"
    needs: ClassVar[tuple[str, ...]] = ("trial", "optimizers")

    steps: int = 4
    """Training steps that are taken, at least 2. Our choice: enough for one that an optimizer is
    left out of."""
    times: int = 2
    """Steps of an optimizer that must take old gradients, at least 1. Our choice: one may follow
    a first backward pass that is there for something else."""

    def __post_init__(self) -> None:
        self._require("steps", least=2, unit="steps")
        self._require("times", least=1, unit="step")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if subject.module.automatic_optimization:
            return []
        twin = subject.copy()
        with _watched(twin) as seen:
            for index in range(self.steps):
                if subject.time_left <= 0:
                    break
                twin.step(twin.moved(subject.batch(index % len(subject.batches))), index)
        found = {i: n for i, n in seen.times.items() if n >= self.times}
        if not found:
            return []
        worst = max(found, key=lambda i: found[i])
        places = [name for i in found for name in seen.names[i]]
        return self.found(
            "bad",
            f"{found[worst]} of {seen.taken[worst]} steps of optimizer {worst} add new gradients "
            f"to those of its step before ({len(seen.names[worst])} parameters, as "
            f"{listing(seen.names[worst][:1])}).",
            "Call `zero_grad` on the optimizer before `manual_backward`.",
            value=found[worst],
            threshold=self.times,
            places=places,
            window=seen.taken[worst],
        )


class _Seen:
    """Which gradients are left over from a step, and which steps took them again."""

    def __init__(self) -> None:
        self.times: dict[int, int] = {}
        """Optimizer to its steps with old gradients."""
        self.taken: dict[int, int] = {}
        """Optimizer to its steps."""
        self.names: dict[int, list[str]] = {}
        """Optimizer to the parameters whose old gradients it took."""
        self._used: set[int] = set()
        self._carried: set[int] = set()

    def arrives(self, parameter: Tensor) -> None:
        """Note that a gradient is about to be added to what a parameter holds."""
        key = id(parameter)
        if key in self._used and _is_held(parameter):
            self._carried.add(key)
        else:
            self._used.discard(key)
            self._carried.discard(key)

    def steps(self, number: int, parameters: dict[int, tuple[str, Tensor]]) -> None:
        """Note that an optimizer is about to take a step."""
        self.taken[number] = self.taken.get(number, 0) + 1
        old = [n for k, (n, p) in parameters.items() if k in self._carried and _is_held(p)]
        if old:
            self.times[number] = self.times.get(number, 0) + 1
            self.names[number] = old
        self._carried -= parameters.keys()
        self._used |= {key for key, (_, p) in parameters.items() if _is_held(p)}


def _is_held(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


@contextmanager
def _watched(twin: Twin) -> Iterator[_Seen]:
    """Watch gradients arrive and optimizers step while this is entered."""
    seen = _Seen()
    names = {id(p): (name, p) for name, _, p in named_parameters(twin.module)}
    with ExitStack() as hooks:
        for _, parameter in names.values():
            if parameter.requires_grad and not parameter.is_sparse:

                def arrives(_: Tensor, parameter: Tensor = parameter) -> None:
                    seen.arrives(parameter)

                hooks.callback(parameter.register_hook(arrives).remove)
        for number, optimizer in enumerate(twin.optimizers):
            held = [id(p) for group in optimizer.param_groups for p in group["params"]]
            own = {key: names[key] for key in held if key in names}

            def steps(_: Any, __: Any, ___: Any, number: int = number, own: Any = own) -> None:
                seen.steps(number, own)

            hooks.callback(optimizer.register_step_pre_hook(steps).remove)
        yield seen
