"""``lightning-diag check``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from lightning_diag.before_training import check_codes, preflight_outcome, say, summed_up
from lightning_diag.checks import Outcome
from lightning_diag.cli.errors import UsageError
from lightning_diag.cli.judge import Gate, ended, known, write
from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.report.formats import WRITERS, Judged
from lightning_diag.report.verdict import Verdict, judge
from lightning_diag.report.words import SIGNS, listing


@dataclass(frozen=True)
class Checked(Judged):
    """What was found before training, as the formats take it."""

    asked: tuple[str, ...] = ()
    """Codes of the checks that were asked."""
    healthy: str = ""
    """What is said if nothing was found."""

    @property
    def has_run(self) -> bool:
        """There is none yet."""
        return False

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict, of which there is no run yet."""
        if not self.findings:
            tone = "unknown" if len(self.unjudged) == len(self.asked) else "healthy"
            return Verdict(tone, self.healthy, ())  # type: ignore[arg-type]  # one of both
        found = judge(self.findings, self.history)
        codes = listing([finding.code for finding in found.numbered()])
        return Verdict(found.tone, f"{SIGNS[found.tone].meaning}: {codes}.", found.causes)

    @property
    def codes(self) -> list[str]:
        """The codes of the checks that were asked."""
        return sorted(self.asked)


def run(options: argparse.Namespace) -> int:
    """Check what a function returns, and say what was found in the format asked for."""
    gate = Gate(known(options.fails_on, check_codes(), "check"))
    made = _called(options.target)
    module, data = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    try:
        outcome = preflight_outcome(module, data, level=options.only or options.level)
    except TypeError as error:
        raise UsageError(
            f"{options.target!r} must return a LightningModule, or a pair of one and its data: "
            f"{error}"
        ) from None
    stops = [finding.code for finding in outcome.findings if gate.stops(finding)]
    if options.format == "text":
        say(outcome, everything=True)
    else:
        failing = stops if gate.names else [f.code for f in outcome.findings if _is_bad(f)]
        write(WRITERS[options.format](_as_judged(options.target, outcome, failing)))
    return ended(gate, stops)


def _is_bad(finding: Finding) -> bool:
    return Gate(("bad",)).stops(finding)


def _as_judged(target: str, outcome: Outcome, failing: list[str]) -> Checked:
    history = History()
    unjudged = {each.code: each.reason for each in outcome.not_observed}
    history.update_meta({"not_judged": unjudged})
    asked, text = tuple(outcome.seconds), summed_up(outcome)[0]
    # The place that programs show is that of the function.
    path = target.rpartition(":")[0]
    return Checked(path, history, outcome.findings, tuple(failing), asked, text)


def _called(target: str) -> Any:
    """Return what the function returns that a target names."""
    make = _factory(target)
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UsageError(
            f"{target!r} must take no arguments: {error}. Write a function that gives them."
        ) from None
    except ValueError:  # of builtins nothing is known
        pass
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{target!r} failed: {type(error).__name__}: {error}") from error


def _factory(target: str) -> Callable[[], Any]:
    home, colon, name = target.rpartition(":")
    if not colon or not name.isidentifier():
        raise UsageError(
            f"MODULE:FACTORY must name a module and a function in it, got {target!r}: "
            "as my.training:make, or train.py:make."
        )
    sys.path.insert(0, "")  # as `python -m` does
    try:
        module = _loaded(Path(home)) if home.endswith(".py") else importlib.import_module(home)
    except (Exception, SystemExit) as error:  # scripts without a guard may leave
        raise UsageError(f"{home!r} cannot be imported: {type(error).__name__}: {error}") from error
    make = getattr(module, name, None)
    if isinstance(make, nn.Module):
        raise UsageError(f"{name!r} in {home!r} is a module: name a function that returns it.")
    if not callable(make):
        raise UsageError(f"{home!r} has no function {name!r}.")
    function: Callable[[], Any] = make
    return function


def _loaded(path: Path) -> Any:
    """Import a file, without running what only its script runs."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Loaders with worker processes find their data sets' classes by it.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
