"""Runs in plain numbers, for tests of the rules: no trainer, no tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_diag.history import History
from lightning_diag.record import Record

Values = dict[str, dict[str, float]]
STEPS = [0, 1, 2, 3, *range(5, 32, 2), *range(32, 48, 2), *range(48, 400, 3)]
"""Steps that are watched, about as the probe chooses them."""
LAYERS = 6


def weight(i: int) -> str:
    """Return the name of a layer's weight."""
    return f"net.{i}.weight"


def layer(i: int) -> str:
    """Return the name of a layer."""
    return f"net.{i}"


def call(i: int, function: str = "relu") -> str:
    """Return the place of the activation behind a layer."""
    return f"net.{i}.act/{function}#0"


def meta(
    layers: int = LAYERS,
    *,
    function: str = "relu",
    optimizers: Sequence[str] = ("SGD",),
    frozen: Sequence[int] = (),
    outside: Sequence[str] = (),
    owner: Callable[[int], int] = lambda i: 0,
) -> dict[str, Any]:
    """Describe a chain of linear layers with an activation behind each but the last."""
    parameters: dict[str, Any] = {}
    sites: dict[str, Any] = {}
    for i in range(layers):
        for name, shape in ((weight(i), [32, 32]), (f"net.{i}.bias", [32])):
            parameters[name] = {
                "shape": shape,
                "layer": layer(i),
                "trainable": i not in frozen,
                "optimizers": [] if i in frozen or name in outside else [owner(i)],
            }
        sites[f"net.{i}/linear#0"] = {"function": "linear", "kind": "layer", "module": layer(i)}
        if i < layers - 1:
            sites[call(i, function)] = {
                "function": function,
                "kind": function,
                "module": f"net.{i}.act",
            }
    return {
        "parameters": parameters,
        "sites": sites,
        "optimizers": [{"class": name, "groups": [f"{name}/group0"]} for name in optimizers],
        "train_samples": 50_000,
    }


def healthy_values(
    step: int, layers: int = LAYERS, function: str = "relu", *, scale: float = 1.0
) -> Values:
    """Return what a run that works shows at a step."""
    fade = math.exp(-step / 150)
    wobble = 1 + 0.2 * math.sin(step)
    norms = {weight(i): scale * 0.05 * (i + 1) * fade * wobble for i in range(layers)}
    calls = [call(i, function) for i in range(layers - 1)]
    values: Values = {
        "gradient/norm": norms,
        "gradient/layer_norm": {layer(i): norms[weight(i)] for i in range(layers)},
        "gradient/total_norm": {"": math.sqrt(sum(v * v for v in norms.values()))},
        "gradient/missing": dict.fromkeys(norms, 0.0),
        "gradient/nonfinite_count": dict.fromkeys(norms, 0.0),
        "gradient/zero_fraction": dict.fromkeys(norms, 0.01),
        "update/ratio": dict.fromkeys(norms, 2e-3 * wobble),
        "update/norm": dict.fromkeys(norms, 1e-2),
        "update/weight_norm": dict.fromkeys(norms, 5.0),
        "activation/nonfinite_count": dict.fromkeys(calls, 0.0),
        "lr/value": {"SGD/group0": 0.1},
    }
    if function == "relu":
        values["dead_relu/window_samples"] = dict.fromkeys(calls, 5000.0)
        values["dead_relu/fraction"] = dict.fromkeys(calls, 0.02)
    else:
        values["activation/saturated_fraction"] = dict.fromkeys(calls, 0.1)
    return values


def healthy_loss(step: int) -> float:
    """Return the loss of a run that works."""
    return 0.05 + 2.25 * math.exp(-step / 60) * (1 + 0.1 * math.sin(7 * step))


Change = Callable[[int, Values], object]


def story(
    change: Change | None = None,
    *,
    loss: Callable[[int], float] | None = healthy_loss,
    steps: Sequence[int] = tuple(STEPS),
    about: Mapping[str, Any] | None = None,
    function: str = "relu",
    layers: int = LAYERS,
) -> History:
    """Return a history; `change` edits the healthy values of each step."""
    return run_of(
        lines(change, loss=loss, steps=steps, function=function, layers=layers),
        about or meta(layers, function=function),
    )


def lines(
    change: Change | None = None,
    *,
    loss: Callable[[int], float] | None = healthy_loss,
    steps: Sequence[int] = tuple(STEPS),
    function: str = "relu",
    layers: int = LAYERS,
) -> list[Record]:
    """Return the records of a story."""
    records, before = [], steps[0] - 1
    for step in steps:
        values = healthy_values(step, layers, function)
        if change is not None:
            change(step, values)
        dense = {"loss/train": [loss(s) for s in range(before + 1, step + 1)]} if loss else {}
        records.append(Record(step=step, values=values, dense=dense))
        before = step
    return records


def run_of(records: Sequence[Record], about: Mapping[str, Any]) -> History:
    """Return a history of these records."""
    history = History()
    history.update_meta(about)
    for record in records:
        history.append(record)
    return history


def flat(step: int) -> float:
    """Return a loss that stands still, with the noise of batches."""
    return 2.3 + 0.02 * math.sin(3 * step)


def geometric(first: float, ratio: float, layers: int = LAYERS) -> list[float]:
    """Return a value for each layer, each `ratio` times the one before."""
    return list(itertools.accumulate([first] + [ratio] * (layers - 1), lambda a, b: a * b))


def inputs(**numbers: float) -> Values:
    """Return what the first layer is given at a step: standardised values, but for `numbers`."""
    usual = {
        "mean": 0.0,
        "std": 1.0,
        "max": 3.5,
        "offset": 0.1,
        "scale_ratio": 1.2,
        "constant_fraction": 0.0,
        "binary_fraction": 0.0,
        "samples": 512.0,
        "normalised": 0.0,
        "nonfinite_count": 0.0,
    }
    place = f"{layer(0)}/linear#0"
    return {f"input/{name}": {place: value} for name, value in {**usual, **numbers}.items()}


def batches(
    train: Mapping[str, float] | None = None, validation: Mapping[str, float] | None = None
) -> Values:
    """Return what a tensor of the batch looks like in both stages: alike, but for the changes."""
    usual = {"mean": 0.0, "std": 1.0, "min": -3.0, "max": 3.0}
    errors = {"samples": 64.0, "mean_error": 0.03, "std_error": 0.02}
    sides = {"train/0": train or {}, "validation/0": validation or {}}
    return {
        f"data/{name}": {place: {**usual, **errors, **side}[name] for place, side in sides.items()}
        for name in (*usual, *errors)
    }
