"""The runs that were judged wrongly, one line each, with what replays them."""

from __future__ import annotations

from collections.abc import Sequence

from .table import Result, allowed, confusions, is_named, rule_table, totals


def failures(results: Sequence[Result]) -> list[str]:
    """Return one line for each run that was judged wrongly, with what replays it."""
    lines = []
    for r in results:
        only = f" --only {r['only']}" if r.get("only") else ""
        replay = f"--replay {r['name']}{only}"
        if "error" in r:
            lines.append(f"ERROR {replay} {r['kind']}: {r['error'].strip().splitlines()[-1]}")
        elif r["dropped"]:
            continue
        elif r["group"] == "healthy":
            alarms = [
                f"{f['code']} ({f['severity']})" for f in r["findings"] if f["severity"] != "note"
            ]
            if alarms:
                lines.append(f"FALSE {', '.join(alarms)} | {replay} {r['kind']}: {r['recipe']}")
        else:
            lines += _sick_failures(r, replay)
    return sorted(lines)


def _sick_failures(r: Result, replay: str) -> list[str]:
    lines, seen = [], [f["code"] for f in r["findings"]]
    if r["code"] not in seen:
        why = r["not_observed"].get(r["code"], "")
        lines.append(
            f"MISS {r['code']} | {replay} {r['kind']}: {r['recipe']} | loss {r['loss'][0]:.3g} to "
            f"{r['loss'][1]:.3g}; found {seen or 'nothing'}{'; ' + why if why else ''}"
        )
    elif not is_named(r):
        lines.append(f"VERDICT {r['verdict']} for {r['code']} | {replay} {r['kind']}: {seen}")
    untrue = [
        f"{f['code']} ({f['severity']})"
        for f in r["findings"]
        if f["severity"] != "note" and f["code"] not in allowed(r)
    ]
    return lines + [f"EXTRA {what} | {replay} {r['kind']}: {r['recipe']}" for what in untrue]


def by_rule(results: Sequence[Result]) -> list[str]:
    """Return the totals, and the same lines under the rule that each is about, in Markdown."""
    lines: dict[str, list[str]] = {}
    for line in failures(results):
        kind, rest = line.split(" ", 1)
        # VERDICT names what was said, then the cause, whose runs these are.
        head = rest.split(" | ")[0].split(" for ")[-1]
        for part in head.split(", ") if kind != "ERROR" else ["broken"]:
            lines.setdefault(part.split()[0], []).append(line)
    text = [*totals(results), "", *rule_table(results), "", *confusions(results)]
    for code in sorted(lines):
        text += ["", f"## {code}", *lines[code]]
    return text
