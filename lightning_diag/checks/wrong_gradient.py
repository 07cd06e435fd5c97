"""`WrongGradient`: what autograd says of the loss against centred differences of it (C4)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.calm import Calm, calmed
from lightning_diag.checks.cuts import Cuts
from lightning_diag.checks.data import Unavailable, clone
from lightning_diag.checks.differences import Coordinate, Value, differences
from lightning_diag.checks.double import in_double, make_double, raised
from lightning_diag.checks.few import first_samples
from lightning_diag.checks.handwritten import (
    Judged,
    Written,
    arguments_of,
    judged,
    written_functions,
)
from lightning_diag.checks.memory import free_bytes, shortage
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.checks.untouched import untouched
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.lr.apart import seed_all
from lightning_diag.probe.places import named_parameters
from lightning_diag.wording import listing, shown

SAME = 1e-12
"""Relative difference of two runs of the same step that counts as the same (our choice): only the
order of sums may differ."""
BURN_IN_RATE = 1e-3
"""Learning rate of the burn-in, by Adam (its default), whatever the module's own optimizer."""


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
    """Relative error above which a gradient is wrong, 0 to 1 (CS231n; TheDeepChecker has it too)."""
    kink: float = 1e-4
    """Relative error that is right where there are kinks, 0 to 1 (CS231n)."""
    samples: int = 4
    """Samples of the batch, at least 1: fewer samples have fewer kinks (CS231n). Our choice:
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
        for name, found in differences(
            step, known, gradients,
            coordinates=self.coordinates, wrong=self.wrong, kink=self.kink,
        ):  # fmt: skip
            seen.coordinates.setdefault(name, []).append(found)
            if time.monotonic() > end:
                break
        return self._verdict(seen, {n: id(p) for n, p in known.items()}, step.cuts.writes)

    def _step(self, subject: Subject) -> _Step:
        """Return the loss of a few samples as a function of the weights, in float64."""
        twin = subject.copy()
        free = free_bytes(twin.device)
        short = shortage(twin.module, None if free is None else free // 2)  # of twice the bytes
        if short:
            raise Unavailable(short)
        batch = twin.moved(subject.batch())
        try:
            return _Step(twin, first_samples(batch, self.samples))
        except Unavailable:
            return _Step(twin, batch)

    def _verdict(
        self, seen: _Seen, parameters: Mapping[str, int], writes: bool
    ) -> list[Finding] | NotObserved:
        for kind in ("wrong", "passing"):
            names = [n for n, (_, verdict) in seen.functions.items() if verdict.kind == kind]
            if names:
                return self._function(names, seen, parameters)
        wrong = seen.wrong
        meant = ("identity", "estimator")
        reached = _reached(seen, *meant)
        left = [name for name in wrong if parameters[name] not in reached]
        reached = _reached(seen, "unknown")
        blamed = [name for name in left if parameters[name] in reached]
        if blamed:
            names = [n for n, (_, verdict) in seen.functions.items() if verdict.kind == "unknown"]
            return self._parameters(blamed, seen, f"{listing(names)} is on their way to the loss")
        if left and writes:
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
        """Parameters with a wrong gradient, the most affected first; one element alone of all is
        none, since a kink may go unnoticed."""
        errors = {
            name: max(map(_error, each), default=-1.0) for name, each in self.coordinates.items()
        }
        names = sorted((n for n, error in errors.items() if error >= 0), key=lambda n: -errors[n])
        is_lonely = self._count("wrong") == 1 and self._count("right", "near") > 0
        return [] if is_lonely else names


class _Step:
    """A training step of a copy as a function of its weights: the same each time it is called."""

    def __init__(self, twin: Twin, batch: Any) -> None:
        self.twin, self.cuts = twin, Cuts()
        for module in twin.module.modules():  # hooks that change gradients do so on purpose
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        calmed(twin.module)
        with said("the module cannot be turned into float64"):
            make_double(twin.module)
        self._batch = raised(batch)
        self.parameters = {
            name: p
            for name, _, p in named_parameters(twin.module)
            if p.requires_grad and p.is_floating_point()
        }
        frozen = [p for p in twin.module.parameters() if not p.requires_grad]
        held = [*twin.module.buffers(), *frozen]
        self._changing = [(each, each.detach().clone()) for each in held]
        _ = self._loss()
        self._changing = [(t, old) for t, old in self._changing if not torch.equal(t, old)]
        self._put_back()

    def _put_back(self) -> None:
        """Put back what steps change themselves, such as running statistics."""
        for tensor, values in self._changing:
            tensor.detach().copy_(values)

    def _loss(self) -> Tensor:
        """Run the step from the same beginning; afterwards all but gradients is as before."""
        self._put_back()
        with ExitStack() as within:
            within.enter_context(untouched(self.twin.module, values=False))
            for each in (in_double(), Calm(), self.cuts):
                within.enter_context(each)
            seed_all(0)
            return self.twin.loss(clone(self._batch)).mean()

    def burn_in(self, steps: int) -> None:
        """Train for a few steps, so that the weights are no longer those of the very beginning."""
        optimizer = torch.optim.Adam(self.parameters.values(), lr=BURN_IN_RATE)
        for _ in range(steps):
            self.cuts = Cuts()
            optimizer.zero_grad()
            with said("the backward pass failed in float64"), in_double():
                self._loss().backward()
            optimizer.step()
        optimizer.zero_grad()
        self.cuts = Cuts()

    def first(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss with its graph, and the gradients that autograd finds.

        Those that it finds none of are left out: `missing-gradient` tells of them.
        """
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        loss = self._loss()
        if not bool(torch.isfinite(loss)):
            raise Unavailable("the loss is not finite in float64")
        changed = [n for n, p in self.parameters.items() if not torch.equal(p, before[n])]
        if changed:
            raise Unavailable(f"`training_step` changes {listing(changed)} itself")
        with said("the backward pass failed in float64"), in_double(), running():
            loss.backward(retain_graph=True)
        found = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
        return loss, {n: (g.to_dense() if g.is_sparse else g).detach() for n, g in found.items()}

    def check_same(self) -> None:
        """Make sure that the same weights have the same loss.

        Raises:
            Unavailable: If they have not.
        """
        one, other = (float(self._loss().detach()) for _ in range(2))
        if not self.cuts.is_same or abs(one - other) > SAME * abs(one):
            raise Unavailable(
                "the loss of the same weights and samples is not the same each time "
                f"({one!r} and {other!r}), though random states are"
            )

    def __call__(self) -> Value:
        """Return the loss, and whether all choices are those of the first time."""
        with torch.enable_grad():
            loss = float(self._loss().detach())
        return Value(loss, self.cuts.is_same)
