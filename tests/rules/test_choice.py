"""Thresholds set anew and rules that are muted: what is taken, and what is refused with a hint."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules import default_rules
from lightning_diag.rules.choice import Mute, at_thresholds
from lightning_diag.rules.dead_relu import DeadRelu

CODES = ["dead-relu", "non-finite"]


def test_a_threshold_is_set_and_all_else_stays() -> None:
    rules = default_rules()
    changed = at_thresholds(rules, {"dead-relu": {"fraction": 0.3, "samples": 500}})
    assert [rule.code for rule in changed] == [rule.code for rule in rules]
    assert DeadRelu(fraction=0.3, samples=500) in changed
    others = [rule for rule in changed if rule.code != "dead-relu"]
    assert others == [rule for rule in rules if rule.code != "dead-relu"]


def test_a_count_stays_whole_where_a_file_says_5_point_0() -> None:
    (rule,) = at_thresholds([DeadRelu()], {"dead-relu": {"samples": 500.0}})
    assert isinstance(rule, DeadRelu)
    assert repr(rule.samples) == "500"


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        (
            {"dead-rellu": {}},
            "must name codes of rules, got 'dead-rellu': did you mean 'dead-relu'",
        ),
        ({"dead-relu": {"fractions": 1}}, "got 'fractions': did you mean 'fraction'"),
        ({"dead-relu": {"fraction": 2.0}}, "of 'dead-relu': `fraction` must be 0 to 1, got 2.0"),
        ({"dead-relu": {"samples": 1.5}}, "of 'dead-relu': `samples` must be whole, got 1.5"),
    ],
)
def test_what_makes_no_sense_gets_one_sentence(thresholds: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        at_thresholds([DeadRelu()], thresholds)


@pytest.mark.parametrize("value", ["0.5", None, True])
def test_a_threshold_is_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match="`fraction` of 'dead-relu' must be a number"):
        at_thresholds([DeadRelu()], {"dead-relu": {"fraction": value}})


@pytest.mark.parametrize("text", ["dead-relu", "dead-relu:net.3*", "dead-relu:a:b"])
def test_a_mute_is_a_code_and_perhaps_a_pattern_of_places(text: str) -> None:
    mute = Mute.parse(text, CODES)
    assert mute.code == "dead-relu"
    assert str(mute) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dead-rellu", "must begin with the code of a rule, got 'dead-rellu': did you mean 'dead-"),
        ("nonfinite:net", "got 'nonfinite:net': did you mean 'non-finite'"),
        ("dead-relu:", "leave the colon out to mute the whole rule"),
        ("", "must begin with the code of a rule"),
    ],
)
def test_a_mute_that_names_nothing_gets_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Mute.parse(text, CODES)
