"""What the page that compares runs draws: pure functions to plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightning_diag.history import History
from lightning_diag.report.compare.differences import Differences, Run, medians_of
from lightning_diag.report.loss import LOG_FROM
from lightning_diag.report.payload.axis import axis_of
from lightning_diag.report.payload.layers import Tree
from lightning_diag.report.payload.loss import loss_curves
from lightning_diag.report.payload.maps import MOST_CELLS, MOST_PLACES, heat_maps
from lightning_diag.report.payload.numbers import chosen, tidy
from lightning_diag.report.payload.series import curves

VERSION = 1
"""Of the payload's form."""
_MAP = ("id", "metric", "title", "unit", "scale", "band")
"""What the maps of all runs have in common."""


def payload(found: Differences) -> dict[str, Any]:
    """Return everything that the charts of the page show."""
    histories = [run.history for run in found.runs]
    losses = [loss_curves(history) for history in histories]
    steps = [step for history in histories if len(history) for step in _ends(history)]
    return {
        "version": VERSION,
        "axis": {"step": [min(steps), max(steps)] if steps else []},
        "findings": [],
        "runs": [{"name": run.name, "axis": axis_of(run.history)} for run in found.runs],
        "loss": _loss(losses),
        "validation": _chart(
            "Validation loss", [{**(one["validation"] or {}), "unit": ""} for one in losses]
        ),
        "series": [_rates(losses), *_series(histories, losses)],
        "layers": _layers(found),
    }


def _ends(history: History) -> tuple[int, int]:
    steps = [*history.steps, *history.series("loss/train").steps]
    return min(steps), max(steps)


def _chart(title: str, lines: Iterable[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a chart with a line for each run that has one."""
    seen = [(i, line) for i, line in enumerate(lines) if line.get("step")]
    shown = [{"run": i, "step": line["step"], "value": line["value"]} for i, line in seen]
    values = [v for line in shown for v in line["value"] if isinstance(v, int | float)]
    return {"title": title, "unit": "", "log": _is_wide(values), "lines": shown, **more}


def _is_wide(values: Sequence[float]) -> bool:
    """Return whether a logarithmic axis shows curves better."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_FROM


def _loss(losses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the training loss of each run, single steps and smoothed."""
    seen = [(i, one["train"]) for i, one in enumerate(losses) if one["train"]]
    numbers = [v for _, train in seen for v in (*train["low"], *train["high"]) if v is not None]
    lines = [
        {"run": i, "step": train["step"], "value": train["value"], "smooth": train["smooth"]}
        for i, train in seen
    ]
    gaps = [[i, first, last] for i, train in seen for first, last, _ in train["nonfinite"]]
    return {
        "title": "Training loss",
        "unit": "",
        "log": _is_wide(numbers),
        "lines": lines,
        "gaps": gaps,
    }


def _rates(losses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the learning rate of the first parameter group of each run."""
    rates: list[dict[str, Any]] = [next(iter(one["lr"].values()), {}) for one in losses]
    return _chart("Learning rate", rates, id="lr/value", stairs=True)


def _series(
    histories: Sequence[History], losses: Sequence[dict[str, Any]]
) -> Iterable[dict[str, Any]]:
    """Yield a chart for each curve of any run, but for the validation loss, which has its own."""
    known = [curves(history) for history in histories]
    told = {f"validation/{one['validation']['name']}" for one in losses if one["validation"]}
    for name in dict.fromkeys(name for named in known for name in named):
        if name not in told:
            lines = [named.get(name, {}) for named in known]
            first = next(line for line in lines if line)
            scale = {"log": True} if first["scale"] == "log" else {}
            yield _chart(first["title"], lines, id=name, unit=first["unit"], **scale)


def _layers(found: Differences) -> list[dict[str, Any]]:
    """Return each metric of layers: its median in each run by place, and how it went."""
    wanted = {row.place for table in found.layers for row in table.rows}
    cells = MOST_CELLS // max(1, len(found.runs))
    known = [
        {one["id"]: one for one in heat_maps(run.history, _tree(run), wanted, cells=cells)}
        for run in found.runs
    ]
    kinds = dict.fromkeys(kind for maps in known for kind in maps)
    return [_metric(found.runs, [maps.get(kind) for maps in known], wanted) for kind in kinds]


def _tree(run: Run) -> Tree:
    return Tree(run.history, [place for finding in run.findings for place in finding.places])


def _metric(
    runs: Sequence[Run], maps: Sequence[dict[str, Any] | None], wanted: Iterable[str]
) -> dict[str, Any]:
    first = next(one for one in maps if one)
    places = list(dict.fromkeys(place for one in maps if one for place in one["places"]))
    places = chosen(places, MOST_PLACES, wanted)
    medians = [medians_of(run.history, first["metric"]) for run in runs]
    return {
        **{key: first[key] for key in _MAP},
        "places": places,
        "medians": [
            [tidy(known[place]) if place in known else None for place in places]
            for known in medians
        ],
        "runs": [_rows(one, places) for one in maps],
    }


def _rows(one: dict[str, Any] | None, places: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of a run at some places, empty for those that it does not have."""
    if one is None:
        return {"steps": [], "values": [[] for _ in places]}
    rows = dict(zip(one["places"], one["values"], strict=True))
    return {"steps": one["steps"], "values": [rows.get(place, []) for place in places]}
