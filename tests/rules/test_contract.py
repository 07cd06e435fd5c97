"""What holds for every rule, so that a new one is held to it without a line of its own."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch

from lightning_diag.finding import SEVERITIES, Finding
from lightning_diag.history import History
from lightning_diag.rules import DEFAULT_RULES, NotObserved, Rule, default_rules
from lightning_diag.rules.causes import BEHIND, CAUSES
from lightning_diag.rules.relations import RELATIONS
from rules import fit_stories, loss_stories, setup_stories, signal_stories
from rules.stories import (
    LAYERS,
    batches,
    call,
    flat,
    geometric,
    inputs,
    layer,
    meta,
    story,
    weight,
)

SECTIONS = ["What it sees:", "Why it matters:", "What to do:", "References:"]
RULES = pytest.mark.parametrize("rule", DEFAULT_RULES, ids=lambda rule: rule.code)


def _all(values: dict[str, Any], metric: str, value: float) -> None:
    values[metric] = dict.fromkeys(values[metric], value)


def _sick_stories() -> dict[str, Callable[[], History]]:
    """Return for each code a run that has the problem."""

    def vanishing(step: int, values: Any) -> None:
        names = [weight(i) for i in range(LAYERS)]
        values["gradient/norm"] = dict(zip(names, geometric(1e-8, 20.0), strict=True))
        values["update/ratio"] = dict(zip(names, geometric(1e-8, 10.0), strict=True))

    def exploding(step: int, values: Any) -> None:
        values["gradient/total_norm"] = {"": 0.5 if step < 60 else 5000.0}

    def high(step: int, values: Any) -> None:
        _all(values, "update/ratio", 0.3)

    def low(step: int, values: Any) -> None:
        _all(values, "update/ratio", 2e-6)

    def dead(step: int, values: Any) -> None:
        values["dead_relu/fraction"][call(2)] = 0.7

    def missing(step: int, values: Any) -> None:
        values["gradient/missing"][weight(0)] = 1.0
        values["gradient/layer_norm"][layer(1)] = 0.0

    def saturated(step: int, values: Any) -> None:
        values["activation/saturated_fraction"][call(1, "tanh")] = 0.8

    return {
        "non-finite": lambda: story(loss=lambda s: math.nan if s >= 200 else 1.0),
        "exploding-gradient": lambda: story(exploding, loss=lambda s: 0.5 if s < 60 else 40.0),
        "vanishing-gradient": lambda: story(vanishing, loss=flat),
        "missing-gradient": lambda: story(missing),
        "parameter-not-in-optimizer": lambda: story(about=meta(outside=[weight(5)])),
        "dead-relu": lambda: story(dead),
        "saturated-activation": lambda: story(saturated, function="tanh"),
        "learning-rate-too-high": lambda: story(high, loss=lambda s: 2.3 + 0.1 * s),
        "learning-rate-too-low": lambda: story(low, loss=flat),
        **setup_stories.SICK,
        **fit_stories.SICK,
        **signal_stories.SICK,
        **loss_stories.SICK,
    }


def _sick_data() -> dict[str, Callable[[], History]]:
    """Return the same for the codes of data."""

    def waiting(step: int, values: Any) -> None:
        values["data/wait_fraction"] = {"": 0.8}

    def shifted(step: int, values: Any) -> None:
        values.update(batches(validation={"mean": 2.0}))

    def unnormalised(step: int, values: Any) -> None:
        values.update(inputs(mean=120.0, std=60.0, max=255.0, offset=2.0))

    return {
        "slow-dataloader": lambda: story(waiting),
        "train-validation-shift": lambda: story(shifted),
        "unnormalised-input": lambda: story(unnormalised),
    }


SICK = {**_sick_stories(), **_sick_data()}


def _source(rule: type[Rule]) -> ast.ClassDef:
    path = Path(inspect.getfile(rule))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == rule.__name__
    )


def undocumented(node: ast.ClassDef) -> list[str]:
    """Return the fields of a class that no docstring with a source follows."""
    bare = []
    for field, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        has_source = re.search(r"[Oo]ur choice|\b[WCLP]\d+\b|as in `|[A-Z]\w+[A-Z]\w+", text)
        has_range = re.search(r"\d to \d|at least|above|or more|at most", text, re.IGNORECASE)
        if not (has_source and has_range):
            bare.append(ast.unparse(field.target))
    return bare


def test_every_rule_of_the_folder_is_registered() -> None:
    folder = Path(inspect.getfile(Rule)).parent
    written = {
        value
        for path in folder.glob("*.py")
        for value in importlib.import_module(f"lightning_diag.rules.{path.stem}").__dict__.values()
        if inspect.isclass(value) and issubclass(value, Rule) and value is not Rule
    }
    assert written == set(DEFAULT_RULES)


@RULES
def test_code_file_and_class_agree(rule: type[Rule]) -> None:
    words = re.findall(r"[A-Z][a-z]*", rule.__name__)
    assert rule.code == "-".join(words).lower()
    assert Path(inspect.getfile(rule)).stem == rule.code.replace("-", "_")


@RULES
def test_a_rule_is_a_frozen_dataclass_of_thresholds(rule: type[Rule]) -> None:
    one = rule()
    assert is_dataclass(one)
    assert fields(one)
    with pytest.raises(FrozenInstanceError):
        setattr(one, fields(one)[0].name, 1)


@RULES
def test_each_threshold_refuses_what_makes_no_sense(rule: type[Rule]) -> None:
    for field in fields(rule):
        for wrong in (-1, math.nan):
            with pytest.raises(ValueError, match=rf"`{field.name}` must be .*, got {wrong}"):
                replace(rule(), **{field.name: wrong})


@RULES
def test_each_threshold_has_its_range_and_its_source(rule: type[Rule]) -> None:
    assert undocumented(_source(rule)) == []


def test_a_threshold_without_a_source_is_found() -> None:
    code = 'class A:\n    a: int = 1\n    b: int = 2\n    """At least 1."""\n    c: int = 3\n'
    node = ast.parse(code + '    """At least 1. Our choice: why."""').body[0]
    assert isinstance(node, ast.ClassDef)
    assert undocumented(node) == ["a", "b"]


@RULES
def test_the_docstring_has_every_section_in_order(rule: type[Rule]) -> None:
    text = inspect.cleandoc(rule.__doc__ or "")
    places = [text.find(f"\n{section}\n    ") for section in SECTIONS]
    assert places == sorted(places)
    assert min(places) > 0


@RULES
def test_every_metric_is_in_the_table_of_the_architecture(rule: type[Rule], root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Metrics")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, flags=re.MULTILINE)
    known = {name for cell in cells for name in re.findall(r"`(\w+/\w+)`", cell)}
    assert len(known) > 30
    assert {*rule.needs, *rule.uses} <= known


@RULES
def test_an_empty_history_yields_not_observed(rule: type[Rule]) -> None:
    verdict = rule().check(History())
    assert verdict == NotObserved(rule.code, "no step was watched")
    assert rule()(History()) == []


@RULES
def test_a_run_without_its_metrics_yields_not_observed_with_the_reason(rule: type[Rule]) -> None:
    """P20: no data is never a clean bill."""
    history = story(lambda step, values: values.clear(), loss=None, about={"optimizers": []})
    verdict = rule().check(history)
    assert isinstance(verdict, NotObserved)
    assert all(metric in verdict.reason for metric in rule.needs)
    assert verdict.reason


@RULES
@pytest.mark.parametrize("function", ["relu", "tanh"])
def test_a_healthy_run_is_not_spoken_of(rule: type[Rule], function: str) -> None:
    """P20."""
    history = story(function=function)
    assert rule()(history) == []


@RULES
def test_a_sick_run_is_found_with_evidence_that_agrees(rule: type[Rule]) -> None:
    history = SICK[rule.code]()
    (finding,) = rule()(history)
    evidence = finding.evidence
    assert finding.code == rule.code
    assert finding.severity in SEVERITIES
    assert 0 <= finding.steps[0] <= finding.steps[1] <= history.steps[-1]
    assert evidence.window >= 1
    assert evidence.observations >= 1
    assert math.isfinite(evidence.value)
    assert evidence.value != evidence.threshold or rule.code == "parameter-not-in-optimizer"
    assert finding.message.endswith(".")
    assert re.search(r"\d", finding.message)
    assert Finding.from_dict(finding.to_dict()) == finding


@RULES
def test_a_rule_is_pure(rule: type[Rule]) -> None:
    history = SICK[rule.code]()
    before = repr(list(history.records()))
    first = rule()(history)
    assert rule()(history) == first
    assert repr(list(history.records())) == before


@RULES
def test_networks_of_several_optimizers_are_read_without_fail(rule: type[Rule]) -> None:
    """P35: what is one number for one optimizer is one for each of several."""

    def change(step: int, values: Any) -> None:
        for metric in ("gradient/total_norm", "update/skipped", "amp/scale"):
            values[metric] = {"optimizer0": 0.0, "optimizer1": 1.0}

    about = meta(optimizers=["Adam", "Adam"], owner=lambda i: i // 3)
    assert rule()(story(change, about=about)) == []
    assert rule()(story(change, about=about, loss=None)) == []


@RULES
def test_places_are_those_of_the_model(rule: type[Rule]) -> None:
    history = SICK[rule.code]()
    known = {*history.meta["parameters"], *history.meta["sites"]}
    known |= {*history.meta.get("losses", {})}
    known |= {layer(i) for i in range(LAYERS)}
    (finding,) = rule()(history)
    assert set(finding.places) <= known


@RULES
def test_every_name_in_a_remedy_exists(rule: type[Rule]) -> None:
    (finding,) = rule()(SICK[rule.code]())
    remedies = [finding.remedy, *_texts(rule, "remedy")]
    names = {name for text in remedies for name in re.findall(r"`([^`]+)`", text)}
    assert {name: resolves(name) for name in names} == dict.fromkeys(names, True)


def _texts(rule: type[Rule], keyword: str) -> list[str]:
    """Return what the source of a rule passes by a keyword, without what is filled in."""
    return [
        "".join(
            part.value
            for part in ast.walk(node)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        )
        for node in ast.walk(_source(rule))
        if isinstance(node, ast.keyword) and node.arg == keyword
    ]


def resolves(name: str) -> bool:
    """Return whether a name that a remedy gives is one of torch, of Lightning or of a metric."""
    if name == "update/ratio":
        return True
    call = re.fullmatch(r"(Trainer|[\w.]+\.\w+)\((\w+)=.+\)", name)
    if call:
        home, _, made = call[1].rpartition(".")
        owner = importlib.import_module(home or "pytorch_lightning")
        called = getattr(owner, made, None)
        return called is not None and call[2] in inspect.signature(called).parameters
    owners = [torch.Tensor, torch.nn.Module, pytorch_lightning.LightningModule]
    word = re.fullmatch(r"\.?(\w+)(\(.*\))?", name)
    if word:
        return any(hasattr(owner, word[1]) for owner in owners)
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


def test_a_name_that_does_not_exist_is_found() -> None:
    assert resolves("torch.nn.LeakyReLU")
    assert resolves("Trainer(gradient_clip_val=1.0)")
    assert not resolves("torch.nn.LeakyRelu")
    assert not resolves("Trainer(clip=1.0)")
    assert resolves("lightning_diag.EarlyStoppingWindow(restore_best=True)")
    assert not resolves("lightning_diag.EarlyStoppingWindow(restores=True)")
    assert not resolves("leaky_relus")


def test_every_cause_is_a_rule_and_nothing_causes_itself() -> None:
    codes = {rule.code for rule in DEFAULT_RULES}
    assert {*CAUSES, *(code for causes in CAUSES.values() for code in causes)} <= codes
    assert all(cause in CAUSES[effect] for effect, cause in BEHIND)

    def upstream(code: str) -> set[str]:
        free = [r.cause for r in RELATIONS.get(code, ()) if r.side != "ahead" and not r.must_lead]
        return {c for cause in free for c in (cause, *upstream(cause))}

    assert all(code not in upstream(code) for code in codes)


def test_default_rules_are_one_of_each() -> None:
    assert [type(rule) for rule in default_rules()] == list(DEFAULT_RULES)
