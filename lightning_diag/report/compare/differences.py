"""`compare`: what differs between runs, as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from lightning_diag.finding import Finding
from lightning_diag.history import History, Series
from lightning_diag.report.compare.settings import settings
from lightning_diag.report.key_numbers import level
from lightning_diag.report.payload.maps import shown_places
from lightning_diag.report.verdict import Verdict, judge
from lightning_diag.report.words import number, percent

LAYERS = 10
"""Places of a metric that are shown (our choice): those that differ most."""
METRICS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "gradient/layer_norm": ("Gradient norm", number),
    "update/ratio": ("Update ratio", number),
    "activation/std": ("Standard deviation of activations", number),
    "activation/saturated_fraction": ("Saturated activations", percent),
    "dead_relu/fraction": ("Dead ReLU units", percent),
}
"""What is compared layer by layer: its title, and how its numbers are written."""
SHARES = ("activation/saturated_fraction", "dead_relu/fraction")
"""Those that are shares: 0 is common, so differences tell more than ratios."""


@dataclass(frozen=True)
class Run:
    """A run to compare."""

    name: str
    """What to call it."""
    history: History
    """Its numbers."""
    findings: tuple[Finding, ...]
    """What was found in it."""


@dataclass(frozen=True)
class Row:
    """One thing, and what it is in each run."""

    name: str
    """The thing."""
    cells: tuple[str, ...]
    """A text for each run; empty where it has none."""
    differs: bool
    """Whether the cells are not all alike."""


@dataclass(frozen=True)
class LayerRow:
    """A place whose numbers differ."""

    place: str
    """Where."""
    values: tuple[float | None, ...]
    """The median over each run; None where it was not observed."""
    difference: float
    """Largest over smallest; of shares, largest less smallest."""


@dataclass(frozen=True)
class LayerTable:
    """The places at which a metric differs most."""

    metric: str
    """As in the history."""
    title: str
    """For people."""
    rows: tuple[LayerRow, ...]
    """Most different first."""
    places: int
    """How many places could be compared."""
    is_share: bool
    """Whether `difference` is a difference, not a ratio."""

    def write(self, value: float | None) -> str:
        """Write one of its numbers."""
        return "" if value is None else METRICS[self.metric][1](value)

    def write_difference(self, value: float) -> str:
        """Write how much a place differs."""
        return f"{100 * value:.0f} points" if self.is_share else f"{number(value)}×"


@dataclass(frozen=True)
class Differences:
    """What differs between runs."""

    names: tuple[str, ...]
    """The runs."""
    verdicts: tuple[Verdict, ...]
    """What is said of each."""
    findings: tuple[Row, ...]
    """Each finding of any run."""
    numbers: tuple[Row, ...]
    """How far each came."""
    settings: tuple[Row, ...]
    """The settings that are not the same."""
    layers: tuple[LayerTable, ...]
    """The layers whose numbers differ most."""
    losses: tuple[Series, ...]
    """The training loss of each."""
    validation: tuple[Series, ...]
    """The validation loss of each; empty where there is none."""
    runs: tuple[Run, ...] = field(default=(), repr=False)
    """What was compared."""


def compare(runs: Sequence[Run]) -> Differences:
    """Return what differs between runs, of which the first is what others are compared with."""
    verdicts = tuple(judge(run.findings, run.history) for run in runs)
    return Differences(
        names=tuple(run.name for run in runs),
        verdicts=verdicts,
        findings=tuple(_findings(verdicts)),
        numbers=tuple(_numbers(runs)),
        settings=tuple(_settings(runs)),
        layers=tuple(table for metric in METRICS if (table := _layers(runs, metric)).rows),
        losses=tuple(run.history.series("loss/train") for run in runs),
        validation=tuple(_validation_loss(run.history) for run in runs),
        runs=tuple(runs),
    )


def _row(name: str, cells: Sequence[str]) -> Row:
    return Row(name, tuple(cells), differs=len(set(cells)) > 1)


def _findings(verdicts: Sequence[Verdict]) -> Iterator[Row]:
    found = [{finding.code: finding for finding in verdict.numbered()} for verdict in verdicts]
    for code in dict.fromkeys(code for known in found for code in known):
        yield _row(code, [_finding(known.get(code)) for known in found])


def _finding(finding: Finding | None) -> str:
    if finding is None:
        return ""
    passed = ", passed" if finding.until is not None else ""
    return f"{finding.severity}, since step {finding.steps[0]:,}{passed}"


def _numbers(runs: Sequence[Run]) -> Iterator[Row]:
    histories = [run.history for run in runs]
    yield _row("Steps", [f"{max(h.steps) + 1:,}" if len(h) else "" for h in histories])
    for title, read in (
        ("Training loss at last", _last_loss),
        ("Lowest training loss", _lowest_loss),
        ("Validation loss at last", lambda h: _at(_validation_loss(h), -1)),
        ("Best validation loss", lambda h: _least(_validation_loss(h))),
        ("Gradient norm at last", lambda h: _level(h.series("gradient/total_norm"))),
        ("Training time (s)", _seconds),
    ):
        cells = [read(history) for history in histories]
        if any(cells):
            yield _row(title, cells)
    for metric in dict.fromkeys(metric for h in histories for metric in h.metrics()):
        name = metric.removeprefix("validation/")
        if name != metric and name not in {_loss_name(h) for h in histories}:
            yield _row(f"{name} at last", [_at(h.series(metric), -1) for h in histories])


def _last_loss(history: History) -> str:
    return _level(history.series("loss/train"))


def _lowest_loss(history: History) -> str:
    return _least(history.series("loss/train"))


def _level(series: Series) -> str:
    return number(level(series.values)) if series.values else ""


def _least(series: Series) -> str:
    finite = [value for value in series.values if math.isfinite(value)]
    return number(min(finite)) if finite else ""


def _at(series: Series, i: int) -> str:
    return number(series.values[i]) if series.values else ""


def _seconds(history: History) -> str:
    newest = max((seconds for _, _, seconds in history.marks()), default=0.0)
    return f"{newest:,.1f}" if newest else ""


def _loss_name(history: History) -> str | None:
    name = (history.meta.get("validation") or {}).get("loss")
    return None if name is None else str(name)


def _validation_loss(history: History) -> Series:
    name = _loss_name(history)
    return Series([], []) if name is None else history.series(f"validation/{name}")


def _settings(runs: Sequence[Run]) -> Iterator[Row]:
    known = [settings(run.history) for run in runs]
    for name in dict.fromkeys(name for named in known for name in named):
        row = _row(name, [named.get(name, "") for named in known])
        if row.differs:
            yield row


def _layers(runs: Sequence[Run], metric: str) -> LayerTable:
    """Return the places at which the medians over the runs differ most."""
    medians = [medians_of(run.history, metric) for run in runs]
    is_share = metric in SHARES
    rows = []
    for place in dict.fromkeys(place for known in medians for place in known):
        values = tuple(known.get(place) for known in medians)
        seen = [value for value in values if value is not None]
        if len(seen) > 1:
            rows.append(LayerRow(place, values, _difference(seen, is_share=is_share)))
    least = 0.01 if is_share else 1.005
    worst = sorted(rows, key=lambda row: -row.difference)
    shown = tuple(row for row in worst[:LAYERS] if row.difference >= least)
    return LayerTable(metric, METRICS[metric][0], shown, len(rows), is_share)


def _difference(values: Sequence[float], *, is_share: bool) -> float:
    if is_share:
        return max(values) - min(values)
    return max(values) / min(values) if min(values) > 0 else math.inf if max(values) > 0 else 1.0


def medians_of(history: History, metric: str) -> dict[str, float]:
    """Return the median over the run by place; of NaN there is none, and zeros count."""
    found = {}
    for place in shown_places(history, metric):
        values = [v for v in history.series(metric, place).values if not math.isnan(v)]
        if values:
            found[place] = median(values)
    return found
