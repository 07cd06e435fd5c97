"""The findings of a comparison: transfer that hurts, and features that separate no classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from lightning_diag.finding import Evidence, Finding
from lightning_diag.transfer.linear_probe import NEAR_CHANCE, LinearProbe
from lightning_diag.transfer.verdict import Difference, Judgement, signed, spoken


def negative_transfer(
    judged: Judgement,
    compared: Sequence[Difference],
    values: Mapping[str, Sequence[float]],
    *,
    metric: str,
    steps: int,
    places: tuple[str, ...],
) -> tuple[Finding, ...]:
    """Return a finding if training from scratch is surely better than both ways to transfer.

    Args:
        judged: The verdict.
        compared: What it rests on.
        values: The metric of each arm, by seed.
        metric: Its name.
        steps: Optimizer steps of the longest training.
        places: Names of the backbone's parts.
    """
    if judged.verdict != "transfer hurts":
        return ()
    best = next(each for each in compared if each.arm == judged.arm)
    means = {name: fmean(each) for name, each in values.items()}
    message = (
        f"What was learned elsewhere makes {metric} worse: {means['from-scratch']:.3g} from "
        f"scratch, {means['fine-tuned']:.3g} fine-tuned and {means['head-only']:.3g} with a frozen "
        f"backbone, after {steps} steps; {best.arm}, the better of the two, is "
        f"{signed(best.mean)} {spoken(best.interval)} over {len(best.values)} seeds."
    )
    remedy = (
        "Train from scratch, keep fewer of the pretrained layers (the lower ones are the more "
        "general), or pretrain on something nearer to this task; then compare again."
    )
    evidence = Evidence(best.interval[1], 0.0, steps, len(best.values))
    return (
        Finding(
            code="negative-transfer",
            severity="suspect",
            message=message,
            remedy=remedy,
            places=places,
            steps=(0, steps),
            evidence=evidence,
        ),
    )


def inseparable_features(probe: LinearProbe | None, places: tuple[str, ...]) -> tuple[Finding, ...]:
    """Return a finding if a linear probe of the frozen features is near chance.

    Args:
        probe: What it found; None if it could not be asked.
        places: Names of the backbone's parts.
    """
    if probe is None or probe.verdict != "near chance":
        return ()
    low, high = probe.interval
    message = (
        f"A linear head can do little with the frozen features: a linear probe tells "
        f"{probe.accuracy:.1%} of {probe.samples} samples of {probe.classes} classes right "
        f"({low:.1%} to {high:.1%}), where guessing gives {probe.chance:.1%}."
    )
    remedy = (
        "Thaw more of the backbone, take features from a lower layer, or give the head hidden "
        "layers; and check that samples are prepared as they were for pretraining."
    )
    limit = probe.chance + NEAR_CHANCE * (1 - probe.chance)
    return (
        Finding(
            code="inseparable-features",
            severity="suspect",
            message=message,
            remedy=remedy,
            places=places,
            steps=(0, 0),
            evidence=Evidence(high, limit, probe.samples, 1),
        ),
    )
