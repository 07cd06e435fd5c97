"""Runs in plain numbers that have loss calls: what they are given, what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_diag.history import History
from rules.stories import STEPS, healthy_loss, lines, meta, run_of

CLOSE = [step for step in STEPS if step < 4 or step % 3 == 0]
"""Steps at which calls are looked at closely, as a part of those that are watched."""
Numbers = Callable[[int], Mapping[str, float]]
Counts = Callable[[int], Mapping[str, Sequence[float]]]


def described(function: str = "cross_entropy", **changes: Any) -> dict[str, Any]:
    """Return what the metadata say of a loss call."""
    has_classes = function in ("cross_entropy", "nll_loss", "multi_margin_loss")
    is_binary = function.startswith("binary")
    about = {
        "function": function,
        "reduction": "mean",
        "classes": 10 if has_classes else 2 if is_binary else 0,
        "input_shape": [32, 10] if has_classes else [32, 1],
        "target_shape": [32] if has_classes else [32, 1],
        "target_dtype": "int64" if has_classes else "float32",
        "weighted": False,
        "ignore_index": -100 if has_classes else None,
        "activation": "",
        "scale": 1.0,
        "broadcast": False,
    }
    return {**about, **changes}


def usual(function: str) -> dict[str, float]:
    """Return what a call of a network that works shows beside its loss."""
    numbers = {
        "output/mean": 0.1,
        "output/std": 1.2,
        "output/min": -3.0,
        "output/max": 3.0,
        "output/sample_spread": 0.9,
        "output/probability_fraction": 0.0,
        "output/log_probability_fraction": 1.0 if function in ("nll_loss", "kl_div") else 0.0,
    }
    if function in ("mse_loss", "l1_loss") or function.startswith("binary"):
        is_number = not function.startswith("binary")
        numbers.update({
            "target/mean": 0.05 if is_number else 0.5,
            "target/std": 1.0 if is_number else 0.5,
            "target/min": -2.5 if is_number else 0.0,
            "target/max": 2.5 if is_number else 1.0,
            "target/integer_fraction": 0.0 if is_number else 1.0,
            "target/unreachable_fraction": 0.0,
            "target/unexplained_ratio": 0.4,
            "target/sample_spread": 1.0,
        })  # fmt: skip
    if function not in ("mse_loss", "l1_loss", "kl_div"):
        numbers |= {"class/imbalance": 1.5, "class/majority_share": 0.2}
    return numbers


def loss_story(
    numbers: Numbers = lambda step: {},
    *,
    function: str = "cross_entropy",
    loss: Callable[[int], float] = healthy_loss,
    returned: Callable[[int], float] | None = None,
    counts: Counts | None = None,
    call: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    change: Callable[[int, Any], object] | None = None,
) -> History:
    """Return a history with one loss call, `function#0`.

    Args:
        numbers: Changes what the call shows at a step.
        returned: What the call returned, if it is not the training loss.
        counts: Targets, predictions and hits by class.
        call: Changes the description of the call.
        about: Changes the metadata.
    """
    place = f"{function}#0"
    records = []
    first: dict[str, float] = {}
    for record in lines(change, loss=loss):
        if record.step in CLOSE:
            shown = usual(function) | {"output/loss": (returned or loss)(record.step)}
            shown |= numbers(record.step)
            first = first or shown
            values = {**record.values, **{m: {place: value} for m, value in shown.items()}}
            found = counts(record.step) if counts else {}
            lists = {f"class/{name}": {place: list(row)} for name, row in found.items()}
            records.append(replace(record, values=values, lists=lists))
        else:
            records.append(record)
    described_call = {**described(function, **(call or {})), "first": {"step": 0, **first}}
    return run_of(records, {**meta(), "losses": {place: described_call}, **(about or {})})


def stuck(step: int) -> float:
    """Return a loss at chance for ten classes, with the noise of batches."""
    return 2.302 + 0.01 * ((7 * step) % 5 - 2)


def slow(values: Any) -> None:
    """Let the weights move by 3 in 1,000."""
    values["update/ratio"] = dict.fromkeys(values["update/ratio"], 3e-3)


SICK: dict[str, Callable[[], History]] = {
    "output-activation-mismatch": lambda: loss_story(
        lambda step: {"output/probability_fraction": 1.0}, call={"activation": "softmax"}
    ),
    "loss-mismatch": lambda: loss_story(
        function="mse_loss", call={"target_shape": [32], "broadcast": True}
    ),
    "class-imbalance": lambda: loss_story(
        lambda step: {"class/imbalance": 30.0},
        counts=lambda step: {
            "target_count": [30.0, 1.0, 1.0],
            "predicted_count": [31.0, 1.0, 0.0],
            "correct_count": [30.0, 1.0, 0.0],
        },
    ),
    "constant-prediction": lambda: loss_story(
        lambda step: {"output/sample_spread": 0.0}, loss=stuck
    ),
    "unscaled-target": lambda: loss_story(
        lambda step: {
            "target/mean": 300.0,
            "output/mean": 0.01 * step,
            "target/unexplained_ratio": (300 - 0.01 * step) ** 2,
        },
        function="mse_loss",
    ),
    "initial-loss": lambda: loss_story(loss=lambda step: 0.5 + 20.0 / (1 + step)),
    "suspicious-labels": lambda: loss_story(
        loss=stuck,
        counts=lambda step: {
            "target_count": [3.0] * 10,
            "predicted_count": [3.0] * 10,
            "correct_count": [0.3] * 10,
        },
        about={"train_samples": 1000},
    ),
}
"""Code to a run that has the problem."""
