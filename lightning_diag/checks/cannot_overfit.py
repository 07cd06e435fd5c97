"""`CannotOverfit`: a handful of samples that the network does not learn by heart (C3, P26)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.calm import Calm, calmed
from lightning_diag.checks.data import clone
from lightning_diag.checks.few import joined, samples_of
from lightning_diag.checks.floor import KNOWN, best_loss, groups_of, together
from lightning_diag.checks.initial_loss import again
from lightning_diag.checks.losses import LossCatch, SeenLoss
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.lr.apart import seed_all
from lightning_diag.probe.places import named_parameters, trained_modules
from lightning_diag.wording import listing, shown

RATES = (3e-3, 1e-2, 3e-4)
"""Learning rates of Adam that are tried when the own optimizer does not get there (our choice: its
usual one times 3, 10 and a third)."""
LOOK = 10
"""Steps between two looks at how far it has come."""


@dataclass(frozen=True)
class CannotOverfit(Check):
    """A handful of samples that the network cannot learn by heart.

    What it sees:
        A copy that is trained on one batch of a few samples, the very same tensors each step, and
        with the same random numbers: by its own optimizer at its highest learning rate, and by
        Adam at a few rates if that does not get there. Dropout, label smoothing and weight decay
        are off. The loss counts between two others: the least that is possible, which is above
        zero for soft targets and for samples that contradict each other, and that of the best
        answer that does not look at its inputs. Where targets are many (a label for each pixel)
        there are fewer samples, so that the network has room for them. If Adam gets there, and
        its own optimizer not at all, the optimizer is named.

    Why it matters:
        A network that cannot learn twenty samples by heart will not learn twenty thousand. It is
        the test that finds most faults: inputs that do not arrive, labels of other samples, a loss
        of the wrong thing, a wrong sign, layers that are cut off, a learning rate beyond reason.

    What to do:
        Look at one sample on its way from the file to the loss; make the network as simple as it
        gets until it learns them, then add part after part.

    References:
        CS231n course notes, Neural Networks Part 3: overfit a tiny subset of data (C3).
        Karpathy, A Recipe for Training Neural Networks, 2019: overfit one batch.
        Braiek and Khomh, TheDeepChecker, 2022, arXiv:2204.00694.
    """

    code: ClassVar[str] = "cannot-overfit"
    family: ClassVar[str] = "overfit-a-few"
    level: ClassVar[Any] = "full"
    needs: ClassVar[tuple[str, ...]] = ("optimizers", "gradients", "copy")

    samples: int = 20
    """Samples to learn by heart, at least 2 (CS231n)."""
    room: float = 4.0
    """Trained weights for each target, 0 or more; with fewer there are fewer samples. Our choice:
    a network has room for about as many random labels as it has weights, and needs more to learn
    them soon."""
    steps: int = 300
    """Steps of each optimizer, at least 1. TheDeepChecker takes 1000; our choice: what learns at
    all has learned most of 20 samples by then."""
    learned: float = 0.1
    """Share of the way from a constant answer to the least loss that may be left, 0 to 1: then it
    ends. Our choice: whoever is there has learned each sample."""
    stuck: float = 0.5
    """Share that is left with each optimizer from which on it is `bad`, 0 to 1; our choice: half of
    what the samples differ in is not learned."""
    hopeless: float = 0.9
    """Share that is left with its own optimizer from which on that is named, 0 to 1, if Adam has
    learned them. Our choice: it has hardly begun."""
    seconds: float = 20.0
    """Time for it, 0 or more. Our choice: a third of what all checks have."""

    def __post_init__(self) -> None:
        self._require("samples", least=2, unit="samples")
        self._require("room", "seconds", least=0.0)
        self._require("steps", least=1, unit="step")
        self._require("learned", "stuck", "hopeless", least=0.0, most=1.0)
        self._require_order("learned", "stuck", "hopeless")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if not subject.module.automatic_optimization:
            return self.not_observed("`training_step` takes its steps itself")
        end = time.monotonic() + min(self.seconds, subject.time_left / 2)
        own = self._attempt(subject, 0.0, end)
        if own.scale is None:
            return self._judge_total(subject, own, end)
        if own.left <= self.learned:
            return []
        others: list[_Attempt] = []
        for rate in RATES:
            others.append(self._attempt(subject, rate, end))
            if others[-1].left <= self.learned or time.monotonic() > end:
                break
        return self._verdict(own, others)

    def _judge_total(
        self, subject: Subject, own: _Attempt, end: float
    ) -> list[Finding] | NotObserved:
        """Judge a loss of which only the beginning is known."""
        return self.not_observed(
            "how low the loss can be is not known: no loss function of torch with targets that "
            f"differ was seen (it went from {shown(own.first)} to {shown(own.last)} in "
            f"{own.steps} steps)"
        )

    def _attempt(self, subject: Subject, rate: float, end: float) -> _Attempt:
        """Train a copy with its own optimizer, or with Adam."""
        twin = subject.copy()
        optimizers = twin.optimizers
        calmed(twin.module, optimizers)
        trained = [p for o in optimizers for g in o.param_groups for p in g["params"]]
        if rate:
            optimizers = [torch.optim.Adam(dict.fromkeys(trained), lr=rate)]
        else:
            _warmed_up(optimizers)
        return _Run(twin, self._batch(subject, twin, trained)).train(
            optimizers, self, "Adam" if rate else "its own optimizer", rate, end
        )

    def _batch(self, subject: Subject, twin: Twin, trained: Sequence[Tensor]) -> Any:
        """Return the samples, as `training_step` gets them."""
        first = subject.batch()
        size = samples_of(first) or self.samples
        targets = sum(loss.call.target.numel() for loss in subject.trial.losses if loss.trained)
        weights = sum(p.numel() for p in dict.fromkeys(trained) if p.requires_grad)
        wanted = self.samples
        if self.room and targets:
            wanted = max(2, min(wanted, int(weights * size / (self.room * targets))))
        batches = [first]
        if size < wanted:
            batches = subject.take(subject.loaders, -(-wanted // size))
        return joined([twin.moved(clone(batch)) for batch in batches], wanted)

    def _verdict(self, own: _Attempt, others: list[_Attempt]) -> list[Finding] | NotObserved:
        best = min([own, *others], key=lambda each: each.left)
        if best.left <= self.learned:
            return self._optimizer(own, best) if own.left >= self.hopeless else []
        tried = [each for each in (own, *others) if each.steps >= self.steps // 2 or each.broke]
        if len(tried) < 2:
            return self.not_observed(f"there was time for {own.steps + others[0].steps} steps only")
        if best.left < self.stuck:
            return []
        still = f" {listing(best.still)} did not move." if best.still else ""
        return self.found(
            "bad",
            f"{best.samples} samples cannot be learned by heart: {best.told} the loss gets from "
            f"{shown(best.first)} to {shown(best.last)}, where {shown(best.floor)} is possible, "
            f"and {shown(best.constant)} the best that can be had without looking at the inputs: "
            f"{best.left:.0%} of the way is left ({own.steps} steps with {own.name}, left "
            f"{own.left:.0%}; Adam at {_rates(others)} is no better).{still}",
            "Look at one sample on its way from the file to the loss: whether inputs arrive and "
            "belong to their targets, whether the loss compares what it should, whether gradients "
            "reach the first layers. Make the network simpler until it learns them.",
            value=best.left,
            threshold=self.stuck,
            places=best.still,
            window=best.samples,
        )

    def _optimizer(self, own: _Attempt, best: _Attempt) -> list[Finding]:
        still = f" {listing(own.still)} did not move." if own.still else ""
        return self.found(
            "suspect",
            f"{own.samples} samples are learned by heart by Adam at {best.rate:g} in "
            f"{best.steps} steps (loss {shown(best.last)}), and not by the module's own optimizer: "
            f"in {own.steps} steps the loss gets from {shown(own.first)} to {shown(own.last)}, "
            f"{own.left:.0%} of the way is left.{still}",
            "Look at the learning rate, at the signs in `backward` and `training_step`, and at "
            "which parameters the optimizer holds; `lr_range_test` finds a rate.",
            value=own.left,
            threshold=self.hopeless,
            places=own.still,
            window=own.samples,
        )


def _rates(others: Sequence[_Attempt]) -> str:
    rates = [f"{each.rate:g}" for each in others]
    return " and ".join([", ".join(rates[:-1]), rates[-1]] if len(rates) > 1 else rates)


def _warmed_up(optimizers: Sequence[Any]) -> None:
    """Set learning rates to where schedules begin or peak: a warm-up begins near zero."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.get("max_lr", group.get("initial_lr", group["lr"]))


class Scale(NamedTuple):
    """Between which losses a loss lies."""

    floor: float
    constant: float


@dataclass(frozen=True)
class _Attempt:
    """What one optimizer has reached."""

    name: str
    rate: float
    """Of Adam; 0 for the own optimizer."""
    steps: int
    samples: int
    first: float
    last: float
    """The lowest."""
    scale: Scale | None
    still: tuple[str, ...]
    """Parameters that were not moved at all."""
    broke: bool
    """Whether it ended with a loss that is not finite."""

    @property
    def floor(self) -> float:
        return self.scale.floor if self.scale else math.nan

    @property
    def constant(self) -> float:
        return self.scale.constant if self.scale else math.nan

    @property
    def left(self) -> float:
        """Share of the way from a constant answer to the floor that is left."""
        if self.scale is None:
            return math.nan
        return max(0.0, (self.last - self.floor) / (self.constant - self.floor))

    @property
    def told(self) -> str:
        return f"by Adam at {self.rate:g}" if self.rate else f"by {self.name}"


class _Run:
    """The training of a copy on one batch."""

    def __init__(self, twin: Twin, batch: Any) -> None:
        self._twin, self._batch = twin, batch
        self._modules = trained_modules(twin.module)
        self._scale: Scale | None = None

    def train(
        self, optimizers: Sequence[Any], check: CannotOverfit, name: str, rate: float, end: float
    ) -> _Attempt:
        """Take steps until the samples are learned, or steps or time are over."""
        held = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
        before = {
            n: p.detach().clone()
            for n, _, p in named_parameters(self._twin.module)
            if id(p) in held and p.requires_grad
        }
        first, step = self._look(), 0
        lowest, now = first, first
        while step < check.steps and math.isfinite(now) and time.monotonic() < end:
            if self._share(lowest) <= check.learned:
                break
            self._step(optimizers)
            step += 1
            if step % LOOK == 0 or step == check.steps:
                now = self._look()
                lowest = min(lowest, now) if math.isfinite(now) else lowest
        moved = {
            n: not torch.equal(p, before[n])
            for n, _, p in named_parameters(self._twin.module)
            if n in before
        }
        still = tuple(n for n, has_moved in moved.items() if not has_moved) if step else ()
        size = samples_of(self._batch) or 0
        return _Attempt(name, rate, step, size, first, lowest, self._scale, still,
                        not math.isfinite(now))  # fmt: skip

    def _share(self, loss: float) -> float:
        if self._scale is None:
            return math.inf
        return (loss - self._scale.floor) / (self._scale.constant - self._scale.floor)

    def _loss(self) -> Tensor:
        # Whatever is drawn is the same each time: noise of its own is nothing to learn.
        seed_all(0)
        return self._twin.loss(clone(self._batch)).mean()

    def _look(self) -> float:
        """Return how high the loss is, as a mean over samples, without what is added to it."""
        with LossCatch(self._modules) as catch, Calm():
            total = self._loss()
        seen = [each for each in catch.seen if each.trained]
        if self._scale is None:
            self._scale = self._scaled(seen)
        if self._scale is None:
            return float(total.detach())
        return sum(again(each, each.call.input) for each in seen if each.function in KNOWN)

    def _scaled(self, seen: Sequence[SeenLoss]) -> Scale | None:
        known = [each for each in seen if each.function in KNOWN]
        floor = constant = 0.0
        for each in known:
            groups = groups_of(self._batch, each.call.target)
            alike = together(groups)
            if alike is None:
                return None
            floor += max((best_loss(each, g) for g in groups), key=_number)
            constant += best_loss(each, alike)
        if not known or not constant > floor + 1e-6 * abs(constant):
            return None
        return Scale(floor, constant)

    def _step(self, optimizers: Sequence[Any]) -> None:
        def closure() -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            with Calm():
                loss = self._loss()
            self._twin.module.backward(loss)
            return loss

        with running(), said("a step failed on a copy of the module"), torch.enable_grad():
            for optimizer in optimizers:
                optimizer.step(closure)


def _number(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


