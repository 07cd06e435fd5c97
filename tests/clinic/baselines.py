"""Published rules on the same draw: torchmortem itself, and two sets written from their papers.

SageMaker Debugger's rules run on Amazon's machines, and AutoTrainer's are tied to Keras 2, so both
are re-implementations from their published thresholds, over numbers that are recorded here. Left
out is what has no meaning for networks that give out logits (AutoTrainer's sum of the outputs),
and what needs another run (similarity, trees, profiling).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytorch_lightning as pl

from .numbers import Look, Numbers
from .recipe import Recipe
from .train import train

Found = list[tuple[str, str]]
"""Name of the published rule, and the code of ours that says the same (empty for none)."""

_MORTEM = {
    "Vanishing gradients": "vanishing-gradient",
    "Exploding gradients": "exploding-gradient",
    "Gradient stalling": "missing-gradient",
    "Dead units": "dead-relu",
    "Activation saturation": "saturated-activation",
    "Update ratio too low": "learning-rate-too-low",
    "Update ratio too high": "learning-rate-too-high",
    "Weight norm explosion": "exploding-gradient",
    "Stagnant weight norms": "learning-rate-too-low",
    "Inter-layer weight norm": "init-scale",
    "High gradient noise": "noisy-gradient",
    "Rank collapse": "collapsed-activation",
    "Training divergence": "diverging-loss",
    "Loss plateau": "loss-plateau",
    "Catapult phase": "loss-spike",
    "Edge of stability": "",
}
"""How a title of torchmortem's begins, and what we call that."""


class Mortem(pl.Callback):
    """torchmortem, used as its documentation shows: attach, a step after each step, detach."""

    def __init__(self) -> None:
        self.found: Found = []
        self.error = ""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
        autopsy: Any = importlib.import_module("torchmortem").Autopsy
        self.autopsy = autopsy(pl_module, optimizer=trainer.optimizers[0])
        self.autopsy.attach()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if outputs else None
        self.autopsy.step(loss=None if loss is None else float(loss))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.autopsy.detach()
        for finding in self.autopsy.get_report().findings:
            name = next(name for name in _MORTEM if finding.title.startswith(name))
            # What torchmortem calls information is what a note is here.
            if finding.severity.name != "INFO" and (name, _MORTEM[name]) not in self.found:
                self.found.append((name, _MORTEM[name]))


@dataclass(frozen=True)
class SageMaker:
    """SageMaker Debugger's rules at their default thresholds (AWS developer guide)."""

    def __call__(self, looks: list[Look], losses: list[float], held: list[float]) -> Found:
        """Return the rules that fire, each once."""
        return sorted(
            {*self._each(looks), *self._course(losses, held), *self._start(looks, losses)}
        )

    def _each(self, looks: list[Look]) -> Iterator[tuple[str, str]]:
        for look in looks:
            if look.nonfinite:
                yield "ExplodingTensor", "non-finite"
            if any(g < 1e-7 for g in look.gradient.values()):
                yield "VanishingGradient", "vanishing-gradient"
            if any(share == 1 for share in look.zeros.values()):
                yield "AllZero", "missing-gradient"
            if any(share > 0.5 for share in look.silent.values()):
                yield "DeadRelu", "dead-relu"
            if any(share > 0.5 for share in look.flat.values()):
                yield "SaturatedActivation", "saturated-activation"
            if any(ratio > 10 for ratio in look.ratio.values()):
                yield "WeightUpdateRatio above", "learning-rate-too-high"
            if any(ratio < 1e-8 for ratio in look.ratio.values()):
                yield "WeightUpdateRatio below", "learning-rate-too-low"
            if look.input_offset > 0.2:
                yield "CheckInputImages", "unnormalised-input"
        yield from _classes(looks)

    def _course(self, losses: list[float], held: list[float]) -> Iterator[tuple[str, str]]:
        # Single batches are noisy, so that means of ten steps stand for a loss: kinder to the rule.
        means = [fmean(losses[i : i + 10]) for i in range(0, len(losses) - 9, 10)]
        if any(after >= before for before, after in pairwise(means)):
            yield "LossNotDecreasing", "loss-plateau"
        if held and means and (held[-1] - means[-1]) / max(means[-1], 1e-9) > 0.1:
            yield "Overfit", "overfitting"

    def _start(self, looks: list[Look], losses: list[float]) -> Iterator[tuple[str, str]]:
        first = looks[0] if looks else None
        spread = [v for v in first.input_variance.values() if v > 0] if first else []
        is_flat = sum(losses[i] >= losses[i - 1] for i in range(1, min(10, len(losses)))) >= 5
        uneven = bool(spread) and max(spread) / min(spread) > 10
        thin = first is not None and any(s < 0.001 for s in first.gradient_range.values())
        if uneven or thin or is_flat:
            yield "PoorWeightInitialization", "init-scale"


def _classes(looks: list[Look]) -> Iterator[tuple[str, str]]:
    labels: dict[int, int] = {}
    hits: dict[int, int] = {}
    for look in looks:
        for target, answer in look.answers:
            labels[target] = labels.get(target, 0) + 1
            hits[target] = hits.get(target, 0) + (target == answer)
    if sum(labels.values()) < 500:
        return
    lost = any(1 - hits[c] / n > 0.7 for c, n in labels.items())
    if max(labels.values()) / min(labels.values()) > 10 or lost:
        yield "ClassImbalance", "class-imbalance"


@dataclass(frozen=True)
class AutoTrainer:
    """AutoTrainer's rules (`utils/utils.py` at 03a463e); what must recur does so three times."""

    recurs: int = 3

    def __call__(self, looks: list[Look], losses: list[float], held: list[float]) -> Found:
        """Return the rules that fire, each once."""
        seen: dict[tuple[str, str], int] = {}
        for look in looks:
            for rule in self._each(look):
                seen[rule] = seen.get(rule, 0) + 1
        found = {rule for rule, times in seen.items() if times >= self.recurs}
        if any(not abs(loss) < 1e3 for loss in losses):
            found.add(("nan_loss", "non-finite"))
        if any(loss < 0 for loss in losses):
            found.add(("abnormal loss", "loss-mismatch"))
        return sorted(found | set(self._course([look.accuracy for look in looks])))

    def _each(self, look: Look) -> Iterator[tuple[str, str]]:
        sizes = list(look.gradient.values())
        if len(sizes) >= 2 and sizes[-1] > 0:
            if sizes[0] / sizes[-1] < 1e-3 and sizes[0] < 1e-4:
                yield "vanish", "vanishing-gradient"
            if sizes[0] / sizes[-1] > 70 or look.nonfinite:
                yield "explode", "exploding-gradient"
        if look.silent and max(look.zeros.values(), default=0.0) >= 0.7:
            yield "dying ReLU", "dead-relu"
        if max(look.size.values(), default=0.0) >= 10:
            yield "abnormal data", "unnormalised-input"
        if look.largest_weight > 5:
            yield "large weight", "init-scale"

    def _course(self, accuracies: list[float | None]) -> Iterator[tuple[str, str]]:
        known = [a for a in accuracies if a is not None]
        if len(known) < 10:
            return
        # Looks stand for epochs; AutoTrainer averages over one, so eight parts do here.
        size = max(1, len(known) // 8)
        parts = [sum(known[i : i + size]) / size for i in range(0, len(known) - size + 1, size)]
        falls = [parts[i - 1] - parts[i] for i in range(1, len(parts))]
        if sum(fall >= 0.03 for fall in falls) >= 0.2 * len(parts):
            yield "unstable", "loss-oscillation"
        if max(-fall for fall in falls) < 0.01:
            yield "slow", "learning-rate-too-low"
        if max(parts[len(parts) // 3 :]) < 0.7:
            yield "not converged", "underfitting"


def judge(recipe: Recipe) -> dict[str, Any]:
    """Train a recipe under the published rules; return what each of them finds.

    Without torchmortem (`pip install torchmortem==0.1.1`) there is nothing under its name.
    """
    found: dict[str, Any] = {}
    numbers, run = Numbers(recipe.every), None
    if importlib.util.find_spec("torchmortem"):
        mortem = Mortem()
        try:
            run = train(recipe, [mortem, numbers])
            found["torchmortem"] = mortem.found
        except Exception as error:  # noqa: BLE001  # breaking a training is a result too
            found["torchmortem"] = [(f"broke the training: {type(error).__name__}", "")]
            numbers = Numbers(recipe.every)
    run = run or train(recipe, [numbers])
    found["SageMaker"] = SageMaker()(numbers.looks, run.losses, run.held_losses)
    found["AutoTrainer"] = AutoTrainer()(numbers.looks, run.losses, run.held_losses)
    return found
