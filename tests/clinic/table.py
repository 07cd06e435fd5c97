"""What the results of a draw amount to: recall, precision, intervals, confusions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Result = dict[str, Any]
_Z = 1.959964
"""Standard normal quantile of a two-sided interval of 95 %."""


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Return Wilson's interval of 95 % for a share.

    Example:
        >>> [round(bound, 3) for bound in wilson(8, 10)]
        [0.49, 0.943]
    """
    if of == 0:
        return 0.0, 1.0
    share, z2 = hits / of, _Z * _Z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: int, of: int) -> str:
    """Write a share with its interval.

    Example:
        >>> share(8, 10)
        '0.80 (0.49–0.94) 8/10'
    """
    if of == 0:
        return "–"
    low, high = wilson(hits, of)
    return f"{hits / of:.2f} ({low:.2f}–{high:.2f}) {hits}/{of}"


def counted(results: Iterable[Result], group: str) -> list[Result]:
    """Return the runs of a group that count: not dropped, not broken."""
    return [r for r in results if r["group"] == group and not r["dropped"] and "error" not in r]


def found(result: Result, code: str, *, serious: bool = False) -> dict[str, Any] | None:
    """Return the finding with a code; with `serious` only if it is above `note`."""
    for finding in result["findings"]:
        if finding["code"] == code and (not serious or finding["severity"] != "note"):
            return dict(finding)
    return None


def allowed(result: Result) -> set[str]:
    """Return the codes that are true of a run."""
    return {result["code"], *result["equals"], *result["brings"]}


def is_named(result: Result) -> bool:
    """Return whether the verdict is the cause, in these or other words."""
    return result["verdict"] in {result["code"], *result["equals"]}


@dataclass(frozen=True)
class Row:
    """What is known of one rule."""

    code: str
    sick: int
    """Runs that it should see."""
    seen: int
    named: int
    """Runs whose verdict is right."""
    right: int
    """Findings above `note`, over all runs, that are true."""
    wrong: int
    """And those that are not."""
    healthy_alarms: int
    healthy_bad: int
    healthy_notes: int
    step: float
    """Median step of the first finding, NaN without any."""

    @property
    def precision(self) -> str:
        """Share of the findings above `note` that are true."""
        return share(self.right, self.right + self.wrong)


def row(code: str, results: Sequence[Result]) -> Row:
    """Return what is known of one rule."""
    sick, well = counted(results, "sick"), counted(results, "healthy")
    own = [r for r in sick if r["code"] == code]
    seen = [f for r in own if (f := found(r, code))]
    fired = [r for r in sick if found(r, code, serious=True)]
    right = sum(code in allowed(r) for r in fired)
    alarms = [f for r in well if (f := found(r, code, serious=True))]
    return Row(
        code=code,
        sick=len(own),
        seen=len(seen),
        named=sum(map(is_named, own)),
        right=right,
        wrong=len(fired) - right + len(alarms),
        healthy_alarms=len(alarms),
        healthy_bad=sum(f["severity"] == "bad" for f in alarms),
        healthy_notes=sum(found(r, code) is not None for r in well) - len(alarms),
        step=median(f["since"] for f in seen) if seen else math.nan,
    )


def codes_of(results: Sequence[Result]) -> list[str]:
    """Return all codes that were injected or found, the injected ones first."""
    injected = [r["code"] for r in counted(results, "sick")]
    seen = [f["code"] for r in results if "findings" in r for f in r["findings"]]
    return list(dict.fromkeys([*injected, *sorted(seen)]))


def rule_table(results: Sequence[Result]) -> list[str]:
    """Return the table of rules, in Markdown."""
    lines = [
        "| rule | runs | recall | verdict right | precision | on healthy: all, bad, notes | step |",
        "|---|---|---|---|---|---|---|",
    ]
    for code in codes_of(results):
        one = row(code, results)
        step = "–" if math.isnan(one.step) else f"{one.step:.0f}"
        cells = [
            f"`{code}`",
            str(one.sick),
            share(one.seen, one.sick),
            share(one.named, one.sick),
            one.precision,
            f"{one.healthy_alarms}, {one.healthy_bad}, {one.healthy_notes}",
            step,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def totals(results: Sequence[Result]) -> list[str]:
    """Return the numbers over all rules."""
    sick, well = counted(results, "sick"), counted(results, "healthy")
    alarmed = [r for r in well if any(f["severity"] != "note" for f in r["findings"])]
    bad = [r for r in well if any(f["severity"] == "bad" for f in r["findings"])]
    fired = [(r, f) for r in sick + well for f in r["findings"] if f["severity"] != "note"]
    right = sum(r["group"] == "sick" and f["code"] in allowed(r) for r, f in fired)
    tried = [r for r in results if "error" not in r]
    named, of = sum(map(is_named, sick)), len(sick)
    rows = {
        "sick runs": f"{len(sick)}, healthy runs: {len(well)}",
        "the rule for the cause saw it": share(_seen(sick), of),
        "the verdict names the cause": share(named, of),
        "sick runs with any finding above `note`": share(sum(map(_is_alarmed, sick)), of),
        "healthy runs with a finding above `note`": share(len(alarmed), len(well)),
        "healthy runs with one that is `bad`": share(len(bad), len(well)),
        "findings above `note` that are true": share(right, len(fired)),
        "draws without the harm, dropped": str(_dropped(tried, "sick")),
        "healthy draws that did not train well, dropped": str(_dropped(tried, "healthy")),
        "runs that broke": str(len(results) - len(tried)),
    }
    return [f"- {name}: {value}" for name, value in rows.items()]


def _dropped(results: Iterable[Result], group: str) -> int:
    return sum(bool(r["dropped"]) for r in results if r["group"] == group)


def _seen(results: Iterable[Result]) -> int:
    return sum(found(r, r["code"]) is not None for r in results)


def _is_alarmed(result: Result) -> bool:
    return any(f["severity"] != "note" for f in result["findings"])


def baseline_table(results: Sequence[Result]) -> list[str]:
    """Return how the published rules fare on the same runs, beside ours."""
    tools = ["lightning_diag", "torchmortem", "SageMaker", "AutoTrainer"]
    judged = [set(r["baselines"]) for r in results if "baselines" in r]
    missing = [tool for tool in tools[1:] if judged and any(tool not in known for known in judged)]
    tools = [tool for tool in tools if tool not in missing]
    sick = [r for r in counted(results, "sick") if "baselines" in r]
    well = [r for r in counted(results, "healthy") if "baselines" in r]
    if not sick and not well:
        return []
    lines = [
        "| rules | alarm on sick runs | cause among them | true alarms | alarm on healthy runs |",
        "|---|---|---|---|---|",
    ]
    for tool in tools:
        said = {id(r): _said(r, tool) for r in [*sick, *well]}
        named = sum(bool(said[id(r)] & {r["code"], *r["equals"]}) for r in sick)
        alarms = [(r, code) for r in [*sick, *well] for code in said[id(r)]]
        right = sum(r["group"] == "sick" and code in allowed(r) for r, code in alarms)
        cells = [
            tool,
            share(sum(bool(said[id(r)]) for r in sick), len(sick)),
            share(named, len(sick)),
            share(right, len(alarms)),
            share(sum(bool(said[id(r)]) for r in well), len(well)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if missing:
        lines += ["", f"Not installed, so not in this table: {', '.join(missing)}."]
    return lines


def _said(result: Result, tool: str) -> set[str]:
    """Return the codes of ours that a tool's alarms amount to."""
    if tool == "lightning_diag":
        return {f["code"] for f in result["findings"] if f["severity"] != "note"}
    return {code or name for name, code in result["baselines"][tool]}


def confusions(results: Sequence[Result]) -> list[str]:
    """Return which verdicts stood where another was right."""
    pairs = Counter(
        (r["code"], r["verdict"] or "nothing") for r in counted(results, "sick") if not is_named(r)
    )
    if not pairs:
        return ["No verdict was wrong."]
    runs = Counter(r["code"] for r in counted(results, "sick"))
    lines = ["| cause | verdict instead | share of its runs |", "|---|---|---|"]
    return lines + [f"| `{a}` | `{b}` | {share(n, runs[a])} |" for (a, b), n in pairs.most_common()]


def report(results: Sequence[Result]) -> list[str]:
    """Return all tables, in Markdown."""
    parts = [totals, rule_table, baseline_table, confusions]
    return [line for part in parts for line in [*part(results), ""]]
