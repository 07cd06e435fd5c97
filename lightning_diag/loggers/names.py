"""What scalars are called: `diag/` and the metric everywhere, in W&B by the section of the page."""

from __future__ import annotations

from collections.abc import Iterable

MOST_SCALARS = 20
"""Scalars that a logger gets, whatever the size of the model (P36)."""

SECTIONS = (
    "Overview",
    "Gradients",
    "Activations",
    "Dead units",
    "Updates",
    "Learning rate",
    "Data",
    "Findings",
)
"""Sections of a run's page in W&B, which groups panels by what stands before the first slash."""

_SECTION_OF = {
    "gradient": "Gradients",
    "activation": "Activations",
    "dead_relu": "Dead units",
    "update": "Updates",
    "lr": "Learning rate",
    "data": "Data",
}

_SPARE = (
    "update/skipped",
    "dead_relu/fraction_mean",
    "activation/variance_gain_min",
    "update/ratio_min",
    "loss/noise",
)
"""Our choice: what is left out first where there would be too many; another one says nearly as
much, or it is 0 but for runs in half precision."""


def in_section(metric: str) -> str:
    """Return the name of a metric in W&B: its section, then itself.

    Example:
        >>> in_section("gradient/total_norm"), in_section("lr/value"), in_section("loss/train")
        ('Gradients/total_norm', 'Learning rate/value', 'Overview/loss_train')
    """
    measure, _, output = metric.partition("/")
    section = _SECTION_OF.get(measure)
    if section is None:
        return f"Overview/{metric.replace('/', '_')}"
    # One slash alone: W&B can group by the first or by the last one.
    return f"{section}/{output.replace('/', '_')}"


def chosen(metrics: Iterable[str]) -> list[str]:
    """Return at most twenty of these metrics, in their order.

    Example:
        >>> len(chosen([*map(str, range(19)), "update/skipped", "loss/train"]))
        20
    """
    kept = list(metrics)
    for spare in _SPARE:
        if len(kept) > MOST_SCALARS and spare in kept:
            kept.remove(spare)
    return kept[:MOST_SCALARS]
