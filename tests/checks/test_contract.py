"""What holds for every check, so that a new one is held to it without a line of its own."""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rules.test_contract import SECTIONS, resolves, undocumented
from torch import Tensor, nn

from checks.sick import SICK
from checks.subjects import HEALTHY, Pair, Plain, loader, made, mlp, table
from checks.traces import differences, everything
from lightning_diag.before_training import subject
from lightning_diag.checks import DEFAULT_CHECKS, Check, Outcome, run
from lightning_diag.finding import SEVERITIES, Finding, NotObserved

CHECKS = pytest.mark.parametrize("check", DEFAULT_CHECKS, ids=lambda check: check.code)
FAST = [check() for check in DEFAULT_CHECKS if check.level == "fast"]


def asked(pair: Callable[[], Pair], *checks: Check) -> Outcome:
    """Ask checks about a module, which must be as before then."""
    module, data = made(pair)
    before = everything(module, data)
    outcome = run(checks, subject(module, data))
    assert differences(before, everything(module, data)) == []
    return outcome


def _source(check: type[Check]) -> ast.ClassDef:
    tree = ast.parse(Path(inspect.getfile(check)).read_text(encoding="utf-8"))
    return next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == check.__name__
    )


def test_every_check_of_the_folder_is_registered() -> None:
    folder = Path(inspect.getfile(Check)).parent
    written = {
        value
        for path in folder.glob("*.py")
        for value in importlib.import_module(f"lightning_diag.checks.{path.stem}").__dict__.values()
        if inspect.isclass(value) and issubclass(value, Check) and value is not Check
    }
    assert written == set(DEFAULT_CHECKS)


def test_every_check_has_a_sick_module() -> None:
    assert SICK.keys() == {check.code for check in DEFAULT_CHECKS}


@CHECKS
def test_code_file_and_class_agree(check: type[Check]) -> None:
    words = re.findall(r"[A-Z][a-z]*", check.__name__)
    assert check.code == "-".join(words).lower()
    assert Path(inspect.getfile(check)).stem == check.code.replace("-", "_")
    assert check.level in ("fast", "full", "named")


@CHECKS
def test_a_check_is_a_frozen_dataclass_of_thresholds(check: type[Check]) -> None:
    one = check()
    assert is_dataclass(one)
    assert fields(one)
    with pytest.raises(FrozenInstanceError):
        setattr(one, fields(one)[0].name, 1)


@CHECKS
def test_each_threshold_refuses_what_makes_no_sense(check: type[Check]) -> None:
    for field in fields(check):
        for wrong in (-1, math.nan):
            with pytest.raises(ValueError, match=rf"`{field.name}` must be .*, got {wrong}"):
                replace(check(), **{field.name: wrong})


@CHECKS
def test_each_threshold_has_its_range_and_its_source(check: type[Check]) -> None:
    assert undocumented(_source(check)) == []


@CHECKS
def test_the_docstring_has_every_section_in_order(check: type[Check]) -> None:
    text = inspect.cleandoc(check.__doc__ or "")
    places = [text.find(f"\n{section}\n    ") for section in SECTIONS]
    assert places == sorted(places)
    assert min(places) > 0


@CHECKS
def test_a_sick_module_is_found_without_a_trace(check: type[Check]) -> None:
    """P26: bit for bit, also of the loaders and of everything that is drawn from."""
    outcome = asked(SICK[check.code], check())
    assert outcome.not_observed == []
    (finding,) = outcome.findings
    assert finding.code == check.code
    assert finding.severity in SEVERITIES
    assert finding.steps == (0, 0)
    assert math.isfinite(finding.evidence.value)
    assert finding.message.endswith(".")
    assert re.search(r"\d", finding.message)
    assert Finding.from_dict(finding.to_dict()) == finding


@CHECKS
def test_nothing_of_a_copy_is_kept(check: type[Check]) -> None:
    """P17: hooks of a graph that hold who holds the graph would keep it for good."""

    def alive() -> int:
        gc.collect()
        return sum(isinstance(each, nn.Linear) for each in gc.get_objects())

    asked(SICK[check.code], check())
    before = alive()
    asked(SICK[check.code], check())
    assert alive() <= before


@CHECKS
def test_the_same_is_said_each_time(check: type[Check]) -> None:
    first, second = (asked(SICK[check.code], check()).findings for _ in range(2))
    if check.timed:
        said = [[(f.code, f.severity, f.places) for f in each] for each in (first, second)]
        assert said[0] == said[1]
    else:
        assert first == second


@CHECKS
def test_every_name_in_a_remedy_exists(check: type[Check]) -> None:
    texts = [
        "".join(
            part.value
            for part in ast.walk(node)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        )
        for call in ast.walk(_source(check))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "self.found"
        for node in call.args[2:3]
    ]
    assert texts
    names = {name for text in texts for name in re.findall(r"`([^`]+)`", text)}
    assert {name: resolves(name) for name in names} == dict.fromkeys(names, True)


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_module_is_not_spoken_of(kind: str) -> None:
    """P20, and without a trace."""
    outcome = asked(HEALTHY[kind], *FAST)
    assert outcome.findings == []
    failures = [each for each in outcome.not_observed if "failed" in each.reason]
    assert failures == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_module_is_not_spoken_of_at_any_level(kind: str) -> None:
    outcome = asked(HEALTHY[kind], *(check() for check in DEFAULT_CHECKS))
    assert outcome.findings == []
    assert [each for each in outcome.not_observed if "the check failed" in each.reason] == []


class Failing(Plain):
    """Fails in its step, after it has drawn, and changed itself and its batch."""

    error: BaseException = KeyError("gone")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Raise."""
        torch.rand(3)
        batch[0].zero_()
        self.net[0].weight.data.fill_(3.0)
        self.eval()
        raise self.error


@CHECKS
def test_a_step_that_fails_is_told_in_a_sentence_and_leaves_no_trace(check: type[Check]) -> None:
    outcome = asked(lambda: (Failing(mlp()), table()), check())
    for each in outcome.not_observed:
        assert each.code == check.code
        assert "\n" not in each.reason
        assert "the check failed" not in each.reason
        assert not each.reason.endswith(".")


@CHECKS
def test_ctrl_c_within_a_step_leaves_no_trace(check: type[Check]) -> None:
    class Interrupted(Failing):
        error = KeyboardInterrupt()

    module, data = made(lambda: (Interrupted(mlp()), table()))
    before = everything(module, data)
    try:
        run([check()], subject(module, data))
    except KeyboardInterrupt:
        pass
    else:
        assert not {"trial", "losses", "gradients"} & set(check.needs)
    assert differences(before, everything(module, data)) == []


@CHECKS
def test_a_module_without_data_is_not_called_healthy(check: type[Check]) -> None:
    module, _ = made(HEALTHY["mlp"])
    (verdict,) = [check()(subject(module))]
    if {"batch", "trial", "losses", "gradients"} & set(check.needs):
        assert verdict == NotObserved(check.code, "there are no training data")


@CHECKS
def test_data_that_can_be_iterated_once_are_not_used_up(check: type[Check]) -> None:
    module, _ = made(HEALTHY["mlp"])
    once = iter([next(iter(loader(torch.zeros(4, 8), torch.zeros(4).long())))])
    run([check()], subject(module, once))
    assert len(list(once)) == 1
