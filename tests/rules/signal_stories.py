"""Runs whose signal or gradients are sick, in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning_diag.history import History
from rules.stories import call, flat, geometric, meta, story

PLACE = "net.2.norm/batch_norm#0"
LOOKS = [7, 15, 23, 31, 40, *range(48, 400, 9)]


def norm(
    gap: Any = 0.1, ratio: Any = 1.0, *, size: float = 32.0, since: int = 0, place: str = PLACE
) -> Any:
    """Return what a batch norm layer shows on watched steps eight or nine apart."""

    def change(step: int, values: Any) -> None:
        if step in LOOKS and step >= since:
            values["batch_norm/mean_gap"] = {place: gap(step) if callable(gap) else gap}
            values["batch_norm/variance_ratio"] = {place: ratio(step) if callable(ratio) else ratio}
            values["batch_norm/batch_size"] = {place: size}

    return change


def spread(ratio: float, *, function: str = "tanh", until: int = 10**9, calls: int = 5) -> Any:
    """Return a spread that changes by a factor with each layer."""

    def change(step: int, values: Any) -> None:
        factor = ratio if step < until else 1.0
        sizes = geometric(0.6, factor, calls)
        values["activation/std"] = {call(i, function): sizes[i] for i in range(calls)}

    return change


def centred(ratio: float, *, function: str = "sigmoid", after: int = -1) -> Any:
    """Return a mean that is so many standard deviations from 0."""

    def change(step: int, values: Any) -> None:
        calls = [call(i, function) for i in range(5)]
        values["activation/std"] = dict.fromkeys(calls, 0.1)
        values["activation/mean"] = dict.fromkeys(calls, 0.1 * ratio if step > after else 0.0)

    return change


def noisy(cosine: float = 0.01, *, scatter: float = 0.5, ratio: float = 5e-3) -> Any:
    """Return gradients that agree a little, losses that scatter, weights that move."""

    def change(step: int, values: Any) -> None:
        values["gradient/cosine"] = {"": cosine + 0.1 * math.sin(step)}
        values["gradient/noise_scale"] = {"": 250.0}
        values["loss/noise"] = {"": scatter}
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], ratio)

    return change


def with_norm() -> dict[str, Any]:
    """Describe a network with batch norm behind its third layer."""
    about = meta()
    about["sites"][PLACE] = {"function": "batch_norm", "kind": "norm", "module": "net.2.norm"}
    return about


SICK: dict[str, Callable[[], History]] = {
    "batch-norm-gap": lambda: story(norm(ratio=0.1), about=with_norm()),
    "collapsed-activation": lambda: story(spread(0.1), function="tanh", loss=flat),
    "noisy-gradient": lambda: story(noisy(), loss=flat),
    "not-zero-centred": lambda: story(centred(5.0), function="sigmoid", loss=flat),
}
"""For each code a run that has the problem."""
