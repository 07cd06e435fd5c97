"""`CannotOverfit`: a handful of samples that the network does not learn by heart (C3, P26)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lightning_diag.checks.base import Check
from lightning_diag.checks.calm import calmed
from lightning_diag.checks.data import Unavailable, clone
from lightning_diag.checks.few import joined, samples_of
from lightning_diag.checks.memoriser import Attempt, Limits, Memoriser, at_full_rate
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing, shown

RATES = (3e-3, 1e-2, 3e-4)
"""Learning rates of Adam that are tried when the own optimizer does not get there (our choice: its
usual one times 3, 10 and a third)."""


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
    """Samples to learn by heart, at least 2 (C3; CS231n course notes, Neural Networks Part 3)."""
    room: float = 4.0
    """Trained weights for each target, 0 or more; with fewer there are fewer samples. Our choice:
    a network has room for about as many random labels as it has weights, and needs more to learn
    them soon."""
    steps: int = 300
    """Steps of each optimizer, at least 1. TheDeepChecker takes 1000; our choice: what learns at
    all has learned most of 20 samples by then."""
    patience: int = 100
    """Steps without progress after which an optimizer is given up, at least 1. Our choice: a third
    of them."""
    learned: float = 0.1
    """Share of the way from a constant answer to the least loss that may be left, 0 to 1: then it
    ends. Our choice: whoever is there has learned each sample."""
    stuck: float = 0.3
    """Share that is left with each optimizer from which on it counts, 0 to 1; our choice: three
    times what may be left, so that a network that is on its way is not spoken of."""
    hopeless: float = 0.95
    """Share of its own way, from its first loss on, that is left with its own optimizer from which
    on that is named, 0 to 1, if Adam has learned them. Our choice: it has hardly begun."""
    seconds: float = 20.0
    """Time for it, 0 or more. Our choice: a third of what all checks have."""

    def __post_init__(self) -> None:
        self._require("samples", least=2, unit="samples")
        self._require("room", "seconds", least=0.0)
        self._require("steps", "patience", least=1, unit="step")
        self._require("learned", "stuck", "hopeless", least=0.0, most=1.0)
        self._require_order("learned", "stuck", "hopeless")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if not subject.module.automatic_optimization:
            return self.not_observed("`training_step` takes its steps itself")
        end = time.monotonic() + min(self.seconds, subject.time_left / 2)
        batches = self._batches(subject)
        own = self._attempt(subject, batches, 0.0, end)
        if own.samples == 1:
            return self.not_observed("the first batch has one sample only")
        if own.are_alike:
            return self.not_observed("the samples have all the same inputs")
        if own.scale is None:
            return self.not_observed(
                "how low the loss can be is not known: no loss function of torch with targets "
                f"that differ was seen (the loss went from {shown(own.first)} to "
                f"{shown(own.last)} in {own.steps} steps)"
            )
        if own.left <= self.learned:
            return []
        others: list[Attempt] = []
        for rate in RATES:
            others.append(self._attempt(subject, batches, rate, end))
            if others[-1].left <= self.learned or time.monotonic() > end:
                break
        return self._verdict(own, others)

    def _attempt(
        self, subject: Subject, batches: Sequence[Any], rate: float, end: float
    ) -> Attempt:
        """Train a copy with its own optimizer, or with Adam."""
        twin = subject.copy()
        optimizers = twin.optimizers
        calmed(twin.module, optimizers)
        trained = [p for o in optimizers for g in o.param_groups for p in g["params"]]
        if rate:
            optimizers = [torch.optim.Adam(dict.fromkeys(trained), lr=rate)]
        else:
            at_full_rate(optimizers)
        if not {id(p) for p in trained} & {id(p) for p in twin.module.parameters()}:
            raise Unavailable("the optimizers hold no parameter of the module")
        batch = joined([twin.moved(clone(each)) for each in batches], self._wanted(subject))
        limits = Limits(self.steps, self.patience, self.learned, end)
        name = "Adam" if rate else "its own optimizer"
        return Memoriser(twin, batch).train(optimizers, limits, name, rate)

    def _wanted(self, subject: Subject) -> int:
        """Return how many samples the network has room for, at most those wanted."""
        losses = [each for each in subject.trial.losses if each.trained]
        targets = sum(each.call.target.numel() for each in losses)
        if not self.room or not targets:
            return self.samples
        held = subject.parameters.values()
        weights = sum(each.elements for each in held if each.trainable and each.groups)
        size = samples_of(subject.batch()) or self.samples
        return max(2, min(self.samples, int(weights * size / (self.room * targets))))

    def _batches(self, subject: Subject) -> list[Any]:
        """Return one batch, or as many small ones as it takes."""
        first, wanted = subject.batch(), self._wanted(subject)
        size = samples_of(first) or wanted
        return [first] if size >= wanted else subject.take(subject.loaders, -(-wanted // size))

    def _verdict(self, own: Attempt, others: list[Attempt]) -> list[Finding] | NotObserved:
        best = min([own, *others], key=lambda each: each.left)
        if best.left <= self.learned:
            is_hopeless = own.is_over and own.own_left >= self.hopeless
            return self._optimizer(own, best) if is_hopeless else []
        tried = [each for each in (own, *others) if each.is_over]
        if len(tried) < 2:
            done = sum(each.steps for each in (own, *others))
            return self.not_observed(
                f"there was time for {done} steps only, after which {best.left:.0%} of the way "
                "to the lowest loss was left"
            )
        if best.left < self.stuck:
            return []
        still = f" {listing(best.still)} did not move." if best.still else ""
        return self.found(
            "bad",
            f"{best.samples} samples cannot be learned by heart: {best.told} the loss gets from "
            f"{shown(best.first)} to {shown(best.last)}, where {shown(best.floor)} is possible, "
            f"and {shown(best.constant)} the best that can be had without looking at the inputs: "
            f"{_part(best.left)} of the way is left ({own.steps} steps with {own.name}, left "
            f"{_part(own.left)}; Adam at {_rates(others)} is no better).{still}",
            "Look at one sample on its way from the file to the loss: whether inputs arrive and "
            "belong to their targets, whether the loss compares what it should, whether gradients "
            "reach the first layers. Make the network simpler until it learns them.",
            value=best.left,
            threshold=self.stuck,
            places=best.still,
            window=best.samples,
        )

    def _optimizer(self, own: Attempt, best: Attempt) -> list[Finding]:
        still = f" {listing(own.still)} did not move." if own.still else ""
        return self.found(
            "suspect",
            f"{own.samples} samples are learned by heart by Adam at {best.rate:g} in "
            f"{best.steps} steps (loss {shown(best.last)}), and not by the module's own optimizer: "
            f"in {own.steps} steps the loss gets from {shown(own.first)} to {shown(own.last)}, "
            f"{_part(own.own_left)} of the way is left.{still}",
            "Look at the learning rate, at the signs in `backward` and `training_step`, and at "
            "which parameters the optimizer holds; `lightning_diag.lr_range_test` finds a rate.",
            value=own.own_left,
            threshold=self.hopeless,
            places=own.still,
            window=own.samples,
        )


def _part(left: float) -> str:
    return "all" if left >= 0.995 else f"{left:.0%}"


def _rates(others: Sequence[Attempt]) -> str:
    rates = [f"{each.rate:g}" for each in others]
    return " and ".join([", ".join(rates[:-1]), rates[-1]] if len(rates) > 1 else rates)
