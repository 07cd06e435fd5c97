"""`WrongGradient`: what autograd says of the loss against centred differences of it (C4)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning_diag.checks.autograd_functions import (
    Judged,
    Written,
    arguments_of,
    judged,
    written_functions,
)
from lightning_diag.checks.base import Check
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.differences import Coordinate, differences
from lightning_diag.checks.double import in_double
from lightning_diag.checks.few import first_samples
from lightning_diag.checks.memory import free_bytes, shortage
from lightning_diag.checks.steady_step import SteadyStep
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import running
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing, shown


@dataclass(frozen=True)
class WrongGradient(Check):
    """A gradient that is not that of the loss: a backward that somebody wrote does not fit.

    What it sees:
        A copy in float64, a few samples, and a few steps after the beginning: for some elements of
        each parameter, the gradient against the centred difference of the loss. Elements where a
        ReLU, a maximum or any comparison chooses otherwise between both points are left out. Each
        `torch.autograd.Function` in the graph is compared as well, called alone with what it got.
        Dropout and label smoothing are off, random numbers and detached values are the same each
        time, batch norm uses the statistics of its batch, as in training, and running ones are put
        back. A function with steps for a forward (a straight-through estimator), and one that
        changes nothing going forward (gradient reversal or scaling), has its backward on purpose
        and is not spoken of. What torch wrote is taken to be right.

    Why it matters:
        Training goes on, only worse: a missing factor is a wrong learning rate for some of the
        layers, a wrong sign or transpose takes them away from the goal.

    What to do:
        Derive the backward again, and hold it to `torch.autograd.gradcheck` in a test; or leave it
        out, and let autograd find the gradient.

    References:
        CS231n course notes, Neural Networks Part 3: gradient checks (C4).
        PyTorch documentation, Gradcheck mechanics.
    """

    code: ClassVar[str] = "wrong-gradient"
    family: ClassVar[str] = "gradient-check"
    level: ClassVar[Any] = "full"
    needs: ClassVar[tuple[str, ...]] = ("gradients", "copy")

    wrong: float = 1e-2
    """Relative error above which a gradient is wrong, 0 to 1 (CS231n course notes, Neural Networks
    Part 3; TheDeepChecker has it too)."""
    kink: float = 1e-4
    """Relative error that is right where there are kinks, 0 to 1 (C4; CS231n course
    notes, Neural Networks Part 3)."""
    samples: int = 4
    """Samples of the batch, at least 1: fewer samples have fewer kinks (C4). Our choice:
    a batch norm needs some."""
    coordinates: int = 3
    """Elements of each parameter, at least 1: the one with the largest gradient, and random ones.
    Our choice: a wrong backward shows in nearly all of them."""
    burn_in: int = 5
    """Steps before, 0 or more, since the very first weights are special: zeros, and signals on the
    kinks (CS231n). TheDeepChecker takes 10; our choice: a few leave zeros behind."""
    seconds: float = 15.0
    """Time for it, 0 or more; afterwards what has been seen counts. Our choice: a quarter of what
    all checks have."""

    def __post_init__(self) -> None:
        self._require("wrong", "kink", least=0.0, most=1.0)
        self._require_order("kink", "wrong")
        self._require("samples", least=1, unit="sample")
        self._require("coordinates", least=1)
        self._require("burn_in", least=0, unit="steps")
        self._require("seconds", least=0.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if not subject.module.automatic_optimization:
            return self.not_observed("`training_step` takes its steps itself")
        end = time.monotonic() + min(self.seconds, subject.time_left / 2)
        step = self._step(subject)
        step.burn_in(self.burn_in)
        seen = _Seen()
        loss, gradients = step.first()
        functions = written_functions(loss)
        own = [each for each in functions if each.cls is not None]
        del loss
        with arguments_of(each.cls for each in own) as calls:
            step.check_same()
        with in_double(), running():
            for each in own:
                verdict = judged(each.cls, calls[each.cls], wrong=self.wrong, kink=self.kink)
                seen.functions[each.name] = each, verdict
        seen.functions |= {e.name: (e, Judged("unknown")) for e in functions if e.cls is None}
        known = {n: p for n, p in step.parameters.items() if n in gradients}
        is_known = any(verdict.kind == "wrong" for _, verdict in seen.functions.values())
        count = min(self.coordinates, 2) if is_known else self.coordinates
        for name, found in differences(
            step, known, gradients, coordinates=count, wrong=self.wrong, kink=self.kink
        ):
            seen.coordinates.setdefault(name, []).append(found)
            if time.monotonic() > end:
                break
        seen.writes = step.cuts.writes
        return self._verdict(seen, {n: id(p) for n, p in known.items()})

    def _step(self, subject: Subject) -> SteadyStep:
        """Return the loss of a few samples as a function of the weights, in float64."""
        twin = subject.copy()
        free = free_bytes(twin.device)
        short = shortage(twin.module, None if free is None else free // 2)  # of twice the bytes
        if short:
            raise Unavailable(short)
        batch = twin.moved(subject.batch())
        try:
            return SteadyStep(twin, first_samples(batch, self.samples))
        except Unavailable:
            return SteadyStep(twin, batch)

    def _verdict(self, seen: _Seen, parameters: Mapping[str, int]) -> list[Finding] | NotObserved:
        for kind in ("wrong", "passing"):
            names = [n for n, (_, verdict) in seen.functions.items() if verdict.kind == kind]
            if names:
                return self._function(names, seen, parameters)
        wrong = [] if seen.is_lonely else seen.wrong
        meant = _reached(seen, "identity", "estimator")
        left = [name for name in wrong if parameters[name] not in meant]
        for name, (function, _) in seen.functions.items():
            blamed = [each for each in left if parameters[each] in function.reaches]
            if blamed:
                why = f"`{name}`, which has a backward of its own, is between them and the loss"
                return self._parameters(blamed, seen, why)
        if left and seen.writes:
            return self._parameters(left, seen, "a detached tensor is written to in place")
        if left:
            return self.not_observed(
                f"gradients and differences do not agree at {listing(left)}, though no function "
                "with a backward of its own was seen there: something between weights and loss "
                "goes past autograd"
            )
        if not seen.judged:
            return self.not_observed(
                f"no gradient could be told from a kink or from rounding ({seen.counted})"
            )
        return []

    def _function(
        self, names: list[str], seen: _Seen, parameters: Mapping[str, int]
    ) -> list[Finding]:
        function, verdict = seen.functions[names[0]]
        place, worst = verdict.wrong[0]
        wrong = [name for name in seen.wrong if parameters[name] in function.reaches]
        share = f"{len(verdict.wrong)} of {len(verdict.coordinates)} elements"
        at = f"{shown(worst.analytic)} where the difference is {shown(worst.numeric)}"
        if verdict.kind == "passing":
            return self.found(
                "note",
                f"The backward of {listing(names)} lets gradients pass where its output stands "
                f"still ({share}; input {place}: {at}): a clamp that is passed straight through, "
                "or a mask that was forgotten.",
                "If it is not meant so, multiply the gradient in `backward` by the mask of inputs "
                "that the output depends on.",
                value=worst.error,
                threshold=self.wrong,
                places=[*names, *wrong],
                window=len(verdict.coordinates),
            )
        factor = verdict.factor
        told = f", {shown(factor)} times what it should be" if factor else ""
        also = f" Wrong with it: {listing(wrong)}." if wrong else ""
        return self.found(
            "bad",
            f"The backward of {listing(names)} is wrong at {share} that were compared: for input "
            f"{place} it is {at}{told} (relative error {shown(worst.error)}; it counts from "
            f"{shown(self.wrong)} on).{also}",
            "Derive `backward` again, and hold it to `torch.autograd.gradcheck` in a test; or call "
            "what `forward` does directly, and let autograd find the gradient.",
            value=worst.error,
            threshold=self.wrong,
            places=[*names, *wrong],
            window=len(verdict.coordinates),
        )

    def _parameters(self, names: list[str], seen: _Seen, why: str) -> list[Finding]:
        worst = max((c for n in names for c in seen.coordinates[n]), key=_error)
        return self.found(
            "suspect",
            f"The gradients of {listing(names)} are not those of the loss: "
            f"{shown(worst.analytic)} where the difference is {shown(worst.numeric)} (relative "
            f"error {shown(worst.error)}; it counts from {shown(self.wrong)} on; {seen.counted}), "
            f"and {why}.",
            "Compare the function with `torch.autograd.gradcheck`, and use `clone` before writing "
            "to a tensor in place.",
            value=worst.error,
            threshold=self.wrong,
            places=names,
            window=seen.compared,
        )


def _error(coordinate: Coordinate) -> float:
    return coordinate.error if coordinate.verdict == "wrong" else -1.0


def _reached(seen: _Seen, *kinds: str) -> frozenset[int]:
    sets = [each.reaches for each, verdict in seen.functions.values() if verdict.kind in kinds]
    return frozenset().union(*sets)


@dataclass
class _Seen:
    """What was compared."""

    functions: dict[str, tuple[Written, Judged]] = field(default_factory=dict)
    coordinates: dict[str, list[Coordinate]] = field(default_factory=dict)
    writes: bool = False
    """Whether a detached tensor was written to."""

    def _count(self, *verdicts: str) -> int:
        return sum(c.verdict in verdicts for each in self.coordinates.values() for c in each)

    @property
    def compared(self) -> int:
        return sum(map(len, self.coordinates.values()))

    @property
    def judged(self) -> int:
        """How many say anything."""
        alone = sum(verdict.kind != "unknown" for _, verdict in self.functions.values())
        return self._count("right", "near", "wrong") + alone

    @property
    def counted(self) -> str:
        kinks, small = self._count("kink"), self._count("small")
        return f"{self.compared} elements compared, {kinks} at kinks and {small} too small"

    @property
    def wrong(self) -> list[str]:
        """Parameters with a wrong gradient, the most affected first."""
        errors = {
            name: max(map(_error, each), default=-1.0) for name, each in self.coordinates.items()
        }
        return sorted((n for n, error in errors.items() if error >= 0), key=lambda n: -errors[n])

    @property
    def is_lonely(self) -> bool:
        """Whether one element alone is wrong of all: a kink may go unnoticed."""
        return self._count("wrong") == 1 and self._count("right", "near") > 0
