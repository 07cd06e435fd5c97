"""``lightning-diag judge``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_diag.cli.errors import UsageError
from lightning_diag.cli.replay import replay
from lightning_diag.cli.runs import read
from lightning_diag.cli.settings import Settings, settings
from lightning_diag.finding import SEVERITIES, Finding
from lightning_diag.history import History
from lightning_diag.report.console import summary
from lightning_diag.report.formats import WRITERS, Judged
from lightning_diag.rules import DEFAULT_RULES, default_rules
from lightning_diag.rules.choice import at_thresholds, near


@dataclass(frozen=True)
class Gate:
    """What makes the command fail.

    Example:
        >>> Gate(("suspect",)).severities
        ('bad', 'suspect')
    """

    names: tuple[str, ...]
    """Severities and codes."""

    @property
    def severities(self) -> tuple[str, ...]:
        """The severities that count: the least severe one named, and all that are worse."""
        named = [SEVERITIES.index(name) for name in SEVERITIES if name in self.names]
        return SEVERITIES[: max(named, default=-1) + 1]

    def stops(self, finding: Finding) -> bool:
        """Return whether a finding counts: by its code always, by its severity while it lasts."""
        lasts = finding.until is None
        return finding.code in self.names or (lasts and finding.severity in self.severities)


def run(options: argparse.Namespace) -> int:
    """Judge a stored run again, and say what was found in the format asked for."""
    gate = Gate(known(options.fail_on, [rule.code for rule in DEFAULT_RULES]))
    chosen = settings(options.thresholds, options.set, options.mute)
    file, history = read(options.run)
    findings = judged(history, chosen)
    stops = [finding.code for finding in findings if gate.stops(finding)]
    if options.format == "text":
        summary(findings, history)
    else:
        failing = stops if gate.names else [f.code for f in findings if Gate(("bad",)).stops(f)]
        text = WRITERS[options.format](Judged(_shown(file), history, findings, tuple(failing)))
        write(text)
    return ended(gate, stops)


def ended(gate: Gate, stops: Sequence[str]) -> int:
    """Return the exit status, after a sentence where what was found makes the command fail."""
    if stops:
        names = ", ".join(f"`{name}`" for name in gate.names)
        sys.stdout.flush()
        told = f"lightning-diag: found {', '.join(stops)}, and --fail-on names {names}."
        print(told, file=sys.stderr)  # noqa: T201
    return 1 if stops else 0


def write(text: str) -> None:
    """Write UTF-8, as files of these formats are, also where the terminal has another one."""
    sys.stdout.flush()
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        sys.stdout.write(text)
    else:
        stream.write(text.encode())
        stream.flush()


def judged(history: History, chosen: Settings) -> list[Finding]:
    """Judge a history by the default rules at other thresholds; its meta say what could not be.

    What a rule of the user's own found while it trained is kept as it was found.
    """
    try:
        rules = at_thresholds(default_rules(), chosen.thresholds)
    except TypeError as error:
        raise UsageError(str(error)) from None
    diagnosis = replay(history, rules, chosen.mute)
    unjudged = {item.code: item.reason for item in diagnosis.not_observed}
    history.update_meta({"not_judged": unjudged, "muted": diagnosis.muted(history)})
    return [*diagnosis.findings, *_of_others(history.findings, {rule.code for rule in rules})]


def _of_others(findings: Iterable[Finding], codes: set[str]) -> list[Finding]:
    return [finding for finding in findings if finding.code not in codes]


def known(names: Sequence[str], codes: Iterable[str], kind: str = "rule") -> tuple[str, ...]:
    """Return what `--fail-on` names.

    Raises:
        UsageError: If it is neither a severity nor one of the codes.
    """
    all_names: Mapping[str, None] = dict.fromkeys([*SEVERITIES, *codes])
    for name in names:
        if name not in all_names:
            raise UsageError(
                f"`--fail-on` must name a severity ({', '.join(SEVERITIES)}) or the code of a "
                f"{kind}, got {name!r}{near(name, all_names)}"
            )
    return tuple(names)


def _shown(file: Path) -> str:
    """Return the path as tools for code expect it: with slashes, from here where it is below."""
    try:
        return file.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return file.resolve().as_posix()
