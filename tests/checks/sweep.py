"""Ask all checks before healthy and sick trainings of the clinic, and count what they say.

python -m tests.checks.sweep --seed 3 --healthy 100 --sick 30
"""

from __future__ import annotations

import argparse
import collections
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as pytest's `pythonpath` does

import torch
from clinic import (  # they register
    cases,
    healthy_more,
    sick_data,
    sick_fit,
    sick_rate,
    sick_signal,
)
from clinic import healthy as healthy_ways
from clinic.recipe import Recipe
from clinic.train import loaders, prepare, quiet

from checks.planted_outputs import PLANTED
from lightning_diag.before_training import subject
from lightning_diag.checks import DEFAULT_CHECKS, Check, Outcome, chosen, run
from lightning_diag.checks.twin import Twin

_ = healthy_ways, healthy_more, sick_data, sick_fit, sick_rate, sick_signal
STEPS = 5
"""Training steps whose median is the unit of the costs."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m tests.checks.sweep", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default 1)")
    parser.add_argument("--healthy", type=int, default=100, help="healthy recipes (default 100)")
    parser.add_argument("--sick", type=int, default=0, help="sick recipes for each check")
    parser.add_argument("--only", action="append", default=[], help="a code; may be given again")
    return parser.parse_args(given)


@dataclass
class Counts:
    """What a check said of some subjects."""

    asked: int = 0
    found: collections.Counter[str] = field(default_factory=collections.Counter)
    """By severity."""
    unjudged: collections.Counter[str] = field(default_factory=collections.Counter)
    """By reason."""
    seconds: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    """The same in training steps."""

    @property
    def alarms(self) -> int:
        """Findings above a note."""
        return self.found["bad"] + self.found["suspect"]

    def add(self, code: str, outcome: Outcome, step: float) -> None:
        """Count what it said of one more."""
        self.asked += 1
        self.found.update(f.severity for f in outcome.findings if f.code == code)
        self.unjudged.update(u.reason for u in outcome.not_observed if u.code == code)
        self.seconds.append(outcome.seconds[code])
        self.steps.append(outcome.seconds[code] / step)


def step_seconds(module: Any, data: Any) -> float:
    """Return the median time of a training step: forward, backward and optimizer."""
    twin: Twin = subject(module, data).copy()
    times = []
    batches = [batch for batch, _ in zip(data, range(STEPS + 1), strict=False)]
    for index, batch in enumerate(batches):
        began = time.perf_counter()
        loss = twin.step(twin.moved(batch), index)
        if loss is not None and twin.module.automatic_optimization:
            loss.backward()
            for optimizer in twin.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:] or times)


def asked(checks: Sequence[Check], recipe: Recipe) -> tuple[Outcome, float]:
    """Ask checks about a recipe; return what they said, and the time of a training step."""
    module, data = prepare(recipe)
    train, held = loaders(recipe, data)
    step = step_seconds(module, train)
    torch.manual_seed(recipe.seed)
    return run(checks, subject(module, (train, held) if held is not None else train)), step


def healthy(checks: Sequence[Check], seed: int, n: int) -> dict[str, Counts]:
    """Ask about healthy recipes; print each alarm, with what draws it again."""
    counts = {check.code: Counts() for check in checks}
    for index in range(n):
        case = cases.draw(seed, "healthy", index)
        outcome, step = asked(checks, case.recipe)
        for code, count in counts.items():
            count.add(code, outcome, step)
        for finding in outcome.findings:
            if finding.severity != "note":
                print(f"{case.name} {case.kind.name}: {finding.code}: {finding.message}")
                print(f"    {case.recipe}", flush=True)
    return counts


def recalled(check: Check, seed: int, n: int) -> tuple[int, int]:
    """Return how many of some recipes with a planted fault a check finds, and of how many."""
    plant: Callable[[random.Random], Any] | None = PLANTED.get(check.code)
    found = asked_of = 0
    for index in range(n):
        if plant is not None:
            module, data = plant(random.Random(f"{seed}/{check.code}/{index}"))
            outcome = run([check], subject(module, data))
        elif check.code in cases.codes():
            case = cases.draw(seed, "sick", index, only=check.code)
            # Verdicts that say the same in other words count, as they do in the clinic.
            same = {check.code, *getattr(case.kind, "equals", ())}
            outcome, _ = asked([c() for c in DEFAULT_CHECKS if c.code in same], case.recipe)
        else:
            break
        asked_of += 1
        found += bool(outcome.findings)
    return found, asked_of


def table(counts: dict[str, Counts], recall: dict[str, tuple[int, int]]) -> str:
    """Return a row for each check, as Markdown."""
    if not any(count.asked for count in counts.values()):
        rows = [f"| {code} | {n}/{of} |" for code, (n, of) in recall.items() if of]
        return "\n".join(["| check | found |", "|---|---|", *rows])
    head = [
        "| check | level | false alarms | notes | not observed | found | seconds | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *_rows(counts, recall)])


def _rows(counts: dict[str, Counts], recall: dict[str, tuple[int, int]]) -> Iterable[str]:
    levels = {check.code: check.level for check in DEFAULT_CHECKS}
    for code, count in counts.items():
        n, of = recall.get(code, (0, 0))
        yield (
            f"| {code} | {levels[code]} | {count.alarms}/{count.asked} | {count.found['note']} | "
            f"{count.unjudged.total()} | {f'{n}/{of}' if of else ''} | "
            f"{statistics.median(count.seconds):.3f} | {statistics.median(count.steps):.1f} |"
        )


def main(given: list[str] | None = None) -> None:
    """Print the alarms, the table, and why checks could not judge."""
    options = arguments(given)
    quiet()
    known = [check for check in DEFAULT_CHECKS if check.code in (options.only or [check.code])]
    checks = [check() for check in known]
    counts = healthy(checks, options.seed, options.healthy)
    recall = {check.code: recalled(check, options.seed, options.sick) for check in checks}
    print(table(counts, recall))
    for level in ("fast", "full"):
        codes = [check.code for check in chosen(level, known)]
        took = [sum(counts[code].seconds[i] for code in codes) for i in range(options.healthy)]
        if took:
            print(
                f"{level}: {statistics.median(took):.2f} s in the median, at most {max(took):.2f}"
            )
    for code, count in counts.items():
        for reason, times in count.unjudged.most_common():
            print(f"not observed, {times} times: {code}: {reason}")


if __name__ == "__main__":
    main()
