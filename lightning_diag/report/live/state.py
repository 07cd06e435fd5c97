"""`Now`: where a run stands, from the lines of its history file as they come."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from lightning_diag.finding import Finding
from lightning_diag.history.text import parse_finding, parse_meta

_MOST = 4096
"""Points of a trace. Our choice: more than any terminal is wide, so that joined ones look alike."""
_RATE = 8
"""Records that the rate is taken over (our choice): few enough to follow a change of pace."""


class Trace:
    """A number over the run, in bounded memory: neighbours are joined when there are too many.

    Example:
        >>> trace = Trace()
        >>> for step in range(4):
        ...     trace.put(step, float(step))
        >>> trace.levels(2)
        [0.5, 2.5]
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._each = 1
        self._steps: list[int] = []
        self._values: list[float] = []
        self._open: list[float] = []
        self.last: float | None = None
        """The newest number."""

    def put(self, step: int, value: float) -> None:
        """Add the number of a step."""
        self.last = value
        self._open.append(value)
        if len(self._open) < self._each:
            return
        self._steps.append(step)
        self._values.append(_mean(self._open))
        self._open = []
        if len(self._values) >= self._most:
            self._each *= 2
            self._steps = self._steps[1::2]
            self._values = [_mean(self._values[i : i + 2]) for i in range(0, self._most, 2)]

    def forget(self, step: int) -> None:
        """Forget a step and later ones."""
        while self._steps and self._steps[-1] >= step:
            self._steps.pop()
            self._values.pop()
        self._open = []
        self.last = self._values[-1] if self._values else None

    def levels(self, n: int) -> list[float]:
        """Return at most `n` numbers, each the mean of an equal share of all, oldest first."""
        values = [*self._values, *([_mean(self._open)] if self._open else ())]
        if len(values) <= n:
            return values
        edges = [round(i * len(values) / n) for i in range(n + 1)]
        return [_mean(values[a:b]) for a, b in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    """Return the mean; what is not finite among many shows."""
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


class Now:
    """Where a run stands."""

    def __init__(self) -> None:
        self.step: int | None = None
        """The newest watched step; None before the first."""
        self.epoch = 0
        """Its epoch."""
        self.seconds = 0.0
        """Training time up to it."""
        self._has_closed = False
        self.findings: dict[str, Finding] = {}
        """What was found, by code."""
        self.meta: dict[str, Any] = {}
        """What is known of the run."""
        self.traces: dict[str, Trace] = {}
        """Numbers over the run, by what a reader calls them."""
        self._layout: dict[str, list[str]] = {}
        self._times: deque[tuple[int, float]] = deque(maxlen=_RATE)

    @property
    def ended(self) -> bool:
        """Whether the run has said its last word. One that was killed never does."""
        # A file that was thinned begins with all that is said of the run, its end as well.
        return bool(self.meta["ended"]) if "ended" in self.meta else self._has_closed

    @property
    def rate(self) -> float | None:
        """Steps a second, of the newest records; None while it is not known."""
        if len(self._times) < 2:
            return None
        (first, start), (last, end) = self._times[0], self._times[-1]
        return (last - first) / (end - start) if end > start else None

    def take(self, line: Mapping[str, Any]) -> None:
        """Take in a line of the file; kinds that are not needed, or not known, are left out."""
        for kind, content in line.items():
            if kind == "record":
                self._record(content)
            elif kind == "dense":
                for step, value in _stretch(content.get("loss/train", []), -1):
                    self._put("Loss", step, value)
            elif kind == "note":
                self._note(int(content["step"]), content["values"])
            elif kind == "layout":
                self._layout.update(content)
            elif kind == "finding":
                finding = parse_finding(content)
                self.findings[finding.code] = finding
            elif kind == "resume":
                self._resume(int(content))
            elif kind == "meta":
                self.meta.update(parse_meta(content))
                # Earlier versions said no more of an end; what comes behind is of another fit.
                self._has_closed = "not_judged" in content

    def _put(self, name: str, step: int, value: float) -> None:
        self.traces.setdefault(name, Trace()).put(step, value)

    def _record(self, record: Mapping[str, Any]) -> None:
        step = int(record["step"])
        if self.step is not None and step <= self.step:
            self._resume(step)
        self.step, self.epoch = step, int(record["epoch"])
        self.seconds, self._has_closed = float(record["seconds"]), False
        self._times.append((step, self.seconds))
        for at, loss in _stretch(record.get("dense", {}).get("loss/train", []), step):
            self._put("Loss", at, loss)
        norm = self._numbers(record, "gradient/total_norm").get("")
        if norm is not None:
            self._put("Gradient norm", step, norm)
        ratios = [v for k, v in self._numbers(record, "update/ratio").items() if self._is_weight(k)]
        if ratios:
            self._put(
                "Update ratio", step, median(math.inf if math.isnan(v) else v for v in ratios)
            )
        rates = list(self._numbers(record, "lr/value").values())
        if rates:
            self._put("Learning rate", step, rates[0])

    def _numbers(self, record: Mapping[str, Any], metric: str) -> dict[str, float]:
        column = record["values"].get(metric, [])
        places = self._layout.get(metric, [])
        return {
            place: float(value)
            for place, value in zip(places, column, strict=False)
            if value is not None
        }

    def _is_weight(self, name: str) -> bool:
        """Return whether a parameter is one whose update ratio is about 1e-3 in health."""
        known = self.meta.get("parameters", {}).get(name)
        return known is None or len(known["shape"]) >= 2

    def _note(self, step: int, values: Mapping[str, Mapping[str, Any]]) -> None:
        loss = self.meta.get("validation", {}).get("loss")
        value = values.get(f"validation/{loss}", {}).get("")
        if value is not None:
            self._put("Validation loss", step, float(value))

    def _resume(self, step: int) -> None:
        for trace in self.traces.values():
            trace.forget(step)
        self.findings = {c: f for c, f in self.findings.items() if f.steps[0] < step}
        self._times.clear()
        self._has_closed = False


def _stretch(content: Any, step: int) -> list[tuple[int, float]]:
    """Return steps and values of a dense metric; a bare list of values ends at `step`."""
    if isinstance(content, dict):
        return [(s, float(v)) for s, v in zip(content["steps"], content["values"], strict=True)]
    return [(step - len(content) + 1 + i, float(value)) for i, value in enumerate(content)]
