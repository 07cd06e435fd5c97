"""Compares the histories of two runs, number by number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TIMED = frozenset(
    {"step_time/plain_seconds", "step_time/watched_seconds", "overhead/fraction"}
    | {"data/wait_fraction"}
)
"""Metrics that depend on the speed of the machine."""
JOINT = frozenset({"setup/rank_difference"})
"""Metrics that one rank alone does not have."""

Records = Sequence[Mapping[str, Any]]


def unlike(one: Any, other: Any, path: str = "") -> list[str]:
    """Say where two plain values differ in any bit; NaN is like NaN."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return [line for key in one for line in unlike(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for i, (x, y) in pairs for line in unlike(x, y, f"{path}[{i}]")]
    return [] if json.dumps(one) == json.dumps(other) else [f"{path}: {one} and {other}"[:300]]


def differences(
    one: Records, other: Records, *, rtol: float, fractions: float = 0.0, only: Sequence[str] = ()
) -> list[str]:
    """Say where two histories differ by more than `rtol`, clocks aside.

    A mean may be close to 0 by chance: it is compared in standard deviations.

    Args:
        fractions: How far apart shares of elements may be.
        only: Beginnings of the metrics to compare; empty for all.
    """
    if [record["step"] for record in one] != [record["step"] for record in other]:
        return [f"steps {[r['step'] for r in one]} and {[r['step'] for r in other]}"]
    found = []
    for a, b in zip(one, other, strict=True):
        left, right = (dict(_numbers(record, tuple(only))) for record in (a, b))
        for name in sorted(left.keys() | right.keys()):
            x, y = left.get(name), right.get(name)
            if x is None or y is None or len(x) != len(y):
                found.append(f"step {a['step']}: {name} {x} and {y}")
                continue
            atol = fractions if "_fraction/" in name else 0.0
            if name.startswith("gradient/histogram/") and fractions > 0:
                atol = 1.0  # one element may round over the edge of its bin
            if name.startswith("activation/mean/"):
                atol = rtol * left[name.replace("/mean/", "/std/", 1)][0]
            found += [
                f"step {a['step']}: {name} {p} and {q}"
                for p, q in zip(x, y, strict=True)
                if not _close(p, q, rtol, atol)
            ]
    return found


def _close(x: float, y: float, rtol: float, atol: float) -> bool:
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    return math.isclose(x, y, rel_tol=rtol, abs_tol=max(atol, 1e-12))


def _numbers(
    record: Mapping[str, Any], only: tuple[str, ...]
) -> Iterator[tuple[str, Sequence[float]]]:
    for metric, values in record["values"].items():
        if metric not in TIMED | JOINT and metric.startswith(only or ("",)):
            for place, value in values.items():
                yield f"{metric}/{place}", [value]
    for metric, values in record["dense"].items():
        if metric.startswith(only or ("",)):
            yield metric, values
    for metric, lists in record["lists"].items():
        if metric.startswith(only or ("",)):
            for place, values in lists.items():
                yield f"{metric}/{place}", values
    yield "epoch", [record["epoch"]]
    yield "optimizer_steps", record["optimizer_steps"]
