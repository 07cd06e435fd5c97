"""`compare_transfer`: whether what was learned elsewhere helps here, measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from lightning_diag._compat import namespace_of
from lightning_diag.lr.apart import apart, seed_all
from lightning_diag.transfer.arms import (
    Factory,
    Measure,
    Outcome,
    Setting,
    is_datamodule,
    module_for,
    trained,
)
from lightning_diag.transfer.comparison import ARMS, Arm, ArmName, TransferComparison
from lightning_diag.transfer.head_inputs import HeadInputs, second_of
from lightning_diag.transfer.linear_probe import LinearProbe, linear_probe
from lightning_diag.transfer.negative import inseparable_features, negative_transfer
from lightning_diag.transfer.parts import split
from lightning_diag.transfer.select import Selection
from lightning_diag.transfer.verdict import differences, interval, judge

LEAST_SEEDS = 3
"""With fewer, Student's interval is wider than any difference of interest."""
TUNING_SEEDS = 3
"""For each learning rate. Our choice: with one alone, the luckiest of them would be chosen."""


def compare_transfer(
    pretrained: Factory,
    data: Any,
    *,
    head: Selection | Sequence[Selection],
    metric: Measure,
    mode: Literal["max", "min"] = "max",
    backbone: Selection | Sequence[Selection] | None = None,
    scratch: Factory | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    seeds: int = 5,
    lr_factors: Sequence[float] = (0.1, 1.0, 10.0),
    margin: float = 0.02,
    targets: Callable[[Any], Any] | None = None,
    trainer: Any = None,
    accelerator: str = "auto",
) -> TransferComparison:
    """Train only the head, all of a pretrained module, and all from scratch; compare them.

    All get the same budget, the same data in the same order, and the same seeds. Each has the
    learning rate that is best for it, found with three more seeds. The verdict rests on the
    differences seed by seed: see `TransferComparison.verdict`.

    Modules are copies, and random states, files, loggers, loaders' generators and samplers are as
    before, also after an error. Trainings are on one device, without the user's callbacks, loggers
    and checkpoints; `ReduceLROnPlateau`, which waits for validations, is left out.

    Args:
        pretrained: Called with a seed, which all random states are set to; returns a
            LightningModule with its pretrained weights, and with nothing frozen.
        data: A loader to train on and one to measure with, a LightningDataModule, or a function
            that is called with a seed and returns one of these. With a function, seeds may draw
            other samples or splits, and intervals hold for those, too; without, they hold for
            these samples.
        head: What is trained when nothing else is: names, patterns or functions, as
            `LayerFreezing` takes them.
        metric: A metric that validation logs; or a function of the module, in eval mode, and of
            the loader to measure with (of the datamodule, if there is one).
        mode: Whether a higher or a lower metric is better.
        backbone: What is frozen then, likewise. None: all but the head.
        scratch: As `pretrained`, but without pretrained weights. None: a copy of what
            `pretrained` returns, in which each module draws its parameters anew by its
            `reset_parameters`.
        steps: Optimizer steps of each training; either these or `seconds`.
        seconds: Seconds of each training, which gives those of a head alone more steps.
        seeds: How many, at least 3.
        lr_factors: What the learning rates of `configure_optimizers` may be multiplied by, above
            0. Those that suit fine-tuning are often too low to train from scratch.
        margin: The smallest difference that matters to you, at least 0, in units of the metric.
            By default two points of an accuracy, our choice.
        targets: Returns the class numbers of a batch, for the linear probe of the frozen features.
            None: the second part of a list or tuple.
        trainer: Whose precision, gradient clipping and accumulation hold here, too; it is only
            read.
        accelerator: As for the Trainer.

    Raises:
        TypeError: If `pretrained` or `scratch` return no LightningModule.
        ValueError: If an argument is out of range, or validation does not log the metric.
        MisconfigurationException: If there is nothing of that name to train, or a module cannot
            draw its parameters anew.

    Cost:
        Three trainings for each seed, and nine for each factor if there is more than one.
    """
    _check(
        pretrained,
        mode=mode,
        steps=steps,
        seconds=seconds,
        seeds=seeds,
        lr_factors=lr_factors,
        margin=margin,
    )
    with apart() as folder:
        module = module_for("fine-tuned", pretrained, None, 0)
        namespace = namespace_of(module)
        assert namespace is not None
        parts = split(module, head, backbone)
        setting = Setting(namespace, folder, metric, parts, steps, seconds, trainer, accelerator)
        inputs = HeadInputs(parts.head, targets or second_of)
        task = _Task(pretrained, scratch, data, setting, inputs)
        factors = task.best_factors(lr_factors, range(seeds, seeds + TUNING_SEEDS), mode)
        outcomes = task.outcomes(range(seeds), factors)
    return _compared(outcomes, factors, task, mode, margin)


@dataclass(frozen=True)
class _Task:
    """What is trained, on what."""

    pretrained: Factory
    scratch: Factory | None
    data: Any
    setting: Setting
    inputs: HeadInputs

    def outcomes(
        self, seeds: Sequence[int], factors: dict[ArmName, float]
    ) -> dict[ArmName, list[Outcome]]:
        """Train each arm with each seed; all of a seed on the same data."""
        found: dict[ArmName, list[Outcome]] = {arm: [] for arm in factors}
        for seed in seeds:
            data = _data_for(self.data, seed)
            for arm, factor in factors.items():
                module = module_for(arm, self.pretrained, self.scratch, seed)
                is_probed = arm == "head-only" and seed == 0
                outcome = trained(
                    arm,
                    module,
                    data,
                    self.setting,
                    seed=seed,
                    factor=factor,
                    inputs=self.inputs if is_probed else None,
                )
                found[arm].append(outcome)
        return found

    def best_factors(
        self, lr_factors: Sequence[float], seeds: Sequence[int], mode: Literal["max", "min"]
    ) -> dict[ArmName, float]:
        """Return the best factor of each arm, with seeds that are used for nothing else."""
        if len(lr_factors) == 1:
            return dict.fromkeys(ARMS, float(lr_factors[0]))
        best: dict[ArmName, tuple[float, float]] = {}
        for factor in lr_factors:
            found = self.outcomes(seeds, dict.fromkeys(ARMS, float(factor)))
            for arm, outcomes in found.items():
                mean = fmean(each.metric for each in outcomes)
                score = mean if mode == "max" else -mean
                score = score if math.isfinite(score) else -math.inf
                best[arm] = max(best.get(arm, (-math.inf, float(factor))), (score, float(factor)))
        return {arm: factor for arm, (_, factor) in best.items()}


def _data_for(data: Any, seed: int) -> Any:
    """Return two loaders or a datamodule.

    Raises:
        ValueError: If it is neither.
    """
    if callable(data) and not is_datamodule(data):
        seed_all(seed)
        data = data(seed)
    if is_datamodule(data) or (isinstance(data, (list, tuple)) and len(data) == 2):
        return data
    raise ValueError(
        "`data` must be a loader to train on and one to measure with, a LightningDataModule, or a "
        f"function of a seed that returns one of these, got {type(data).__name__}."
    )


def _compared(
    outcomes: dict[ArmName, list[Outcome]],
    factors: dict[ArmName, float],
    task: _Task,
    mode: Literal["max", "min"],
    margin: float,
) -> TransferComparison:
    values: dict[str, tuple[float, ...]] = {
        arm: tuple(each.metric for each in found) for arm, found in outcomes.items()
    }
    scratch = values["from-scratch"]
    untrained = tuple(each.untrained for each in outcomes["from-scratch"])
    moved: dict[str, tuple[float, ...]] = {
        arm: values[arm] for arm in ARMS if arm != "from-scratch"
    }
    compared = differences(moved, scratch, mode)
    judged = judge(compared, differences(values, untrained, mode), margin)
    steps = {arm: tuple(each.steps for each in outcomes[arm]) for arm in ARMS}
    arms = tuple(
        Arm(arm, values[arm], fmean(values[arm]), interval(values[arm]), factors[arm], steps[arm])
        for arm in ARMS
    )
    probe, problem = _probed(task.inputs)
    setting = task.setting
    name, places = _name_of(setting.metric), setting.parts.backbone
    longest = max(max(each) for each in steps.values())
    findings = (
        *negative_transfer(judged, compared, values, metric=name, steps=longest, places=places),
        *inseparable_features(probe, places),
    )
    each = f"{setting.steps} steps" if setting.seconds is None else f"{setting.seconds:g} seconds"
    return TransferComparison(
        metric=name,
        mode=mode,
        budget=f"{each} with each of {len(scratch)} seeds",
        arms=arms,
        untrained=untrained,
        differences=compared,
        verdict=judged.verdict,
        reason=judged.reason,
        probe=probe,
        probe_problem=problem,
        findings=findings,
    )


def _probed(inputs: HeadInputs) -> tuple[LinearProbe | None, str]:
    taken = inputs.taken()
    if taken is None:
        return None, inputs.problem
    try:
        return linear_probe(*taken), ""
    except ValueError as error:
        return None, str(error)


def _check(
    pretrained: Any,
    *,
    mode: str,
    steps: int | None,
    seconds: float | None,
    seeds: int,
    lr_factors: Sequence[float],
    margin: float,
) -> None:
    if namespace_of(pretrained) is not None or not callable(pretrained):
        raise TypeError(
            "`pretrained` must be a function that is called with a seed and returns a "
            f"LightningModule, got {type(pretrained).__name__}: write `lambda seed: module`."
        )
    problems = {
        f"`mode` must be 'max' or 'min', got {mode!r}": mode not in ("max", "min"),
        f"One of `steps` and `seconds` must be given, got {steps} and {seconds}": (
            (steps is None) == (seconds is None)
        ),
        f"`steps` must be at least 1, got {steps}": steps is not None and steps < 1,
        f"`seconds` must be above 0, got {seconds}": (
            seconds is not None and not 0 < seconds < math.inf
        ),
        f"`seeds` must be at least {LEAST_SEEDS}, got {seeds}": seeds < LEAST_SEEDS,
        f"`lr_factors` must be above 0, at least one, got {list(lr_factors)}": (
            not lr_factors or not all(0 < each < math.inf for each in lr_factors)
        ),
        f"`margin` must be at least 0, got {margin}": not 0 <= margin < math.inf,
    }
    for message, broken in problems.items():
        if broken:
            raise ValueError(f"{message}.")


def _name_of(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    return str(getattr(metric, "__name__", type(metric).__name__)).strip("<>")
