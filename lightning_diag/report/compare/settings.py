"""The settings of a run by name, as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from lightning_diag.history import History
from lightning_diag.report.words import number

_TABLES = ("trainer", "dropout", "losses", "versions")


def settings(history: History) -> dict[str, str]:
    """Return what the history's meta says of a run, flat."""
    return dict(_flat(history))


def _flat(history: History) -> Iterator[tuple[str, str]]:
    meta = history.meta
    parameters = meta.get("parameters") or {}
    sizes = (math.prod(known.get("shape") or [1]) for known in parameters.values())
    yield "parameters", f"{sum(sizes):,}" if parameters else ""
    frozen = sum(not known.get("trainable", True) for known in parameters.values())
    yield "frozen parameters", f"{frozen:,}"
    yield "training samples", str(meta.get("train_samples", ""))
    for i, optimizer in enumerate(meta.get("optimizers") or ()):
        yield f"optimizer {i}", str(optimizer.get("class", ""))
        for j, group in enumerate(optimizer.get("groups") or ()):
            for name, value in group.items():
                yield f"optimizer {i}, group {j}: {name}", _setting(value)
    for key in _TABLES:
        for name, value in (meta.get(key) or {}).items():
            if isinstance(value, Mapping):
                inner = ((n, v) for n, v in value.items() if n != "first")
                yield from ((f"{key}: {name} {n}", _setting(v)) for n, v in inner)
            else:
                yield f"{key}: {name}", _setting(value)


def _setting(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
