"""Tables of a run: every layer in one object instead of a panel each (P36), and the findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_diag.finding import Finding
from lightning_diag.history import History

PARAMETER_METRICS = (
    "gradient/norm",
    "gradient/max",
    "gradient/zero_fraction",
    "gradient/nonfinite_count",
    "update/ratio",
    "update/weight_norm",
)
CALL_METRICS = (
    "activation/mean",
    "activation/std",
    "activation/max",
    "activation/zero_fraction",
    "activation/nonfinite_count",
    "activation/saturated_fraction",
    "activation/variance_gain",
    "dead_relu/fraction",
    "dead_relu/window_samples",
)

FINDING_COLUMNS = (
    "code",
    "severity",
    "since step",
    "until step",
    "what",
    "remedy",
    "where",
    "caused by",
)

Row = list[str | float | None]


def place_table(history: History) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of the newest numbers of every place, in the model's order.

    What was not observed is None, never 0.

    Example:
        >>> from lightning_diag.record import Record
        >>> history = History()
        >>> history.append(Record(step=3, values={"gradient/norm": {"net.weight": 2.5}}))
        >>> place_table(history)
        (['place', 'gradient/norm'], [['net.weight', 2.5]])
    """
    metrics = [m for m in (*PARAMETER_METRICS, *CALL_METRICS) if history.last(m)]
    newest = {metric: history.last(metric) for metric in metrics}
    places = dict.fromkeys(place for metric in metrics for place in history.places(metric))
    rows: list[Row] = [
        [place, *(newest[metric].get(place) for metric in metrics)] for place in places
    ]
    return ["place", *metrics], rows


def finding_table(findings: Iterable[Finding]) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of a table of findings, in their order."""
    rows: list[Row] = [
        [
            found.code,
            found.severity,
            found.steps[0],
            found.until,
            found.message,
            found.remedy,
            ", ".join(found.places),
            found.caused_by or "",
        ]
        for found in findings
    ]
    return list(FINDING_COLUMNS), rows


def markdown(columns: Sequence[str], rows: Sequence[Row]) -> str:
    r"""Return the table as Markdown, for loggers that show text.

    Example:
        >>> print(markdown(["place", "n"], [["a|b", 0.123456], ["c", None]]))
        | place | n |
        |---|---|
        | a\|b | 0.1235 |
        | c | |
    """
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = (_cell(value) for value in row)
        lines.append("| " + " | ".join(cells).rstrip() + " |")
    return "\n".join(lines)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.replace("|", "\\|").replace("\n", " ")
    return str(value) if isinstance(value, int) else f"{value:.4g}"
