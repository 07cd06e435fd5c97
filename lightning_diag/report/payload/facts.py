"""What kind of run it was: sizes, optimizers, trainer, versions, as words and as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_diag.history import History
from lightning_diag.report import coverage
from lightning_diag.report.payload.numbers import tidy
from lightning_diag.report.words import count, number

MOST_PARAMETERS = 2_000
"""Parameters listed one by one. Our choice: more than anyone reads."""
_MATTERS = ("lr", "momentum", "betas", "weight_decay")
"""Settings of an optimizer that are told in words."""


def told(history: History) -> Iterator[tuple[str, str]]:
    """Yield what the history's meta says of the run, whatever that is."""
    meta = history.meta
    trainer = dict(meta.get("trainer") or {})
    module = trainer.pop("module", None)
    if module:
        yield "Model", str(module)
    if len(history):
        yield "Steps", f"{max(history.steps) + 1:,}, of which {len(history):,} watched"
    parameters = meta.get("parameters")
    if parameters:
        yield "Parameters", _parameters(parameters)
    for i, optimizer in enumerate(meta.get("optimizers") or ()):
        yield ("Optimizer" if i == 0 else f"Optimizer {i + 1}"), _optimizer(optimizer)
    if "train_samples" in meta:
        yield "Training samples", f"{meta['train_samples']:,}"
    for title, values in (("Trainer", trainer), ("Versions", meta.get("versions") or {})):
        known = {key: value for key, value in values.items() if value not in (None, -1)}
        if known:
            yield title, ", ".join(f"{name} {value}" for name, value in known.items())
    yield "Cost of watching", coverage.overhead(history)


def _optimizer(optimizer: Mapping[str, Any]) -> str:
    """Write an optimizer with the settings of its groups that matter most."""
    groups = [
        ", ".join(f"{key} {_setting(group[key])}" for key in _MATTERS if group.get(key))
        for group in optimizer.get("groups") or ()
        if isinstance(group, Mapping)
    ]
    return ": ".join(part for part in (str(optimizer.get("class", "?")), "; ".join(groups)) if part)


def _setting(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _parameters(known: Mapping[str, Mapping[str, Any]]) -> str:
    sizes = [
        (math.prod(each.get("shape", ())), each.get("trainable", True)) for each in known.values()
    ]
    text = f"{sum(size for size, _ in sizes):,} in {count(len(known), 'tensor')}"
    frozen = sum(size for size, trainable in sizes if not trainable)
    return f"{text}, of which {frozen:,} frozen" if frozen else text


def environment(history: History) -> dict[str, Any]:
    """Return the set-up of a run as plain values: module, optimizers, trainer, versions."""
    meta = history.meta
    trainer = _plain(meta.get("trainer") or {})
    parameters = meta.get("parameters") or {}
    return {
        "module": trainer.get("module"),
        "optimizers": _plain(meta.get("optimizers") or []),
        "trainer": trainer,
        "versions": _plain(meta.get("versions") or {}),
        "parameters": [
            {
                "name": name,
                "shape": _plain(known.get("shape") or []),
                "layer": str(known.get("layer", "")),
                "trainable": bool(known.get("trainable", True)),
            }
            for name, known in list(parameters.items())[:MOST_PARAMETERS]
        ],
    }


def _plain(value: Any) -> Any:
    """Write numbers that are not finite as text."""
    if isinstance(value, float):
        return tidy(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
