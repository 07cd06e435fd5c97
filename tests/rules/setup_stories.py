"""Runs whose set-up or first weights are wrong, in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning_diag.history import History
from rules.stories import LAYERS, STEPS, call, flat, layer, meta, story, weight

WEIGHTS = [weight(i) for i in range(LAYERS)]
LOOKS = {STEPS[i] for i in range(len(STEPS)) if i % 16 == 0}
"""Steps at which weights are looked at."""
TABLE = "words.weight"


def alike(
    weights: Mapping[str, float] | None = None, gradients: Mapping[str, float] | None = None
) -> Callable[[int, Any], None]:
    """Return a change that gives shares of units that are copies."""

    def change(step: int, values: Any) -> None:
        if step < 4 or step in LOOKS:
            values["weight/duplicate_fraction"] = {**dict.fromkeys(WEIGHTS, 0.0), **(weights or {})}
            values["gradient/duplicate_fraction"] = {
                **dict.fromkeys(WEIGHTS, 0.0),
                **(gradients or {}),
            }

    return change


def gains(
    scale: Mapping[int, float] | None = None, *, felt: bool = True, function: str = "relu"
) -> Callable[[int, Any], None]:
    """Return a change that gives initial weights: He's, times a scale for some layers.

    Args:
        felt: Whether the signal follows the weights, as it does without norms.
    """

    def change(step: int, values: Any) -> None:
        if step:
            return
        factors = [(scale or {}).get(i, 1.0) for i in range(LAYERS)]
        values["weight/std"] = {weight(i): f * math.sqrt(2 / 32) for i, f in enumerate(factors)}
        values["weight/mean"] = dict.fromkeys(WEIGHTS, 0.0)
        values["activation/variance_gain"] = {
            f"net.{i}/linear#0": 2 * f * f for i, f in enumerate(factors)
        }
        spread = 1.0
        for i, factor in enumerate(factors[:-1]):
            spread *= factor if felt else 1.0
            values.setdefault("activation/std", {})[call(i, function)] = spread
            if function == "tanh":
                flat_share = 0.8 if felt and spread > 3 else 0.02
                values.setdefault("activation/saturated_fraction", {})[call(i, function)] = (
                    flat_share
                )

    return change


def setup(metric: str, values_of: Callable[[int], Mapping[str, float]]) -> Any:
    """Return a change that adds one metric at every step."""

    def change(step: int, values: Any) -> None:
        found = dict(values_of(step))
        if found:
            values[f"setup/{metric}"] = found

    return change


def about_table(rows: int = 400, samples: int = 1200) -> dict[str, Any]:
    """Describe a network with an embedding."""
    about = meta()
    about["parameters"][TABLE] = {
        "shape": [rows, 16],
        "layer": "words",
        "trainable": True,
        "optimizers": [0],
    }
    about["train_samples"] = samples
    return about


def table(
    touched: float = 0.99, asked: float = 0.3, cosine: float | Callable[[int], float] = 0.02
) -> Callable[[int, Any], None]:
    """Return a change that describes an embedding at each look."""

    def change(step: int, values: Any) -> None:
        if step in LOOKS:
            values["embedding/touched_fraction"] = {TABLE: min(touched, step / 20)}
            values["embedding/batch_fraction"] = {TABLE: asked}
            values["embedding/mean_cosine"] = {TABLE: cosine(step) if callable(cosine) else cosine}

    return change


SICK: dict[str, Callable[[], History]] = {
    "symmetric-init": lambda: story(alike({weight(2): 1.0}, {weight(2): 1.0}), loss=flat),
    "init-scale": lambda: story(gains({3: 30.0})),
    "frozen-but-changing": lambda: story(
        setup("frozen_changed", lambda step: {"": 1.0, weight(0): 1.0})
    ),
    "eval-mode-with-trainable-parameters": lambda: story(
        setup("eval_mode", lambda step: {"": 1.0, layer(1): 1.0})
    ),
    "rank-divergence": lambda: story(setup("rank_difference", lambda step: {weight(1): 0.01})),
    "dead-embedding": lambda: story(table(touched=0.05, asked=0.03), about=about_table()),
    "embedding-collapse": lambda: story(table(cosine=0.99), about=about_table()),
}
"""Code to a run that has the problem."""
