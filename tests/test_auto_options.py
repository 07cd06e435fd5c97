"""The variables that set the options of a `Doctor` which `LIGHTNING_DIAG` attaches."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from lightning_diag import Doctor
from lightning_diag.attach import PREFIX, READERS, doctor_from


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("every_n_steps", " 20 ", 20),
        ("max_overhead", "0.05", 0.05),
        ("startup_seconds", "0", 0.0),
        ("stop_on", "non-finite, bad", ["non-finite", "bad"]),
        ("mute", "slow-dataloader,dead-relu:net.3*", ["slow-dataloader", "dead-relu:net.3*"]),
        ("dirpath", "/tmp/runs", "/tmp/runs"),
        ("compiled_models", "leave", "leave"),
        ("every_n_steps", "", None),
    ],
)
def test_a_variable_sets_an_option(option: str, text: str, value: object) -> None:
    doctor, troubles = doctor_from({PREFIX + option.upper(): text})
    assert troubles == []
    assert getattr(doctor, option) == value


def test_thresholds_are_json() -> None:
    text = '{"dead-relu": {"fraction": 0.25}}'
    doctor, troubles = doctor_from({"LIGHTNING_DIAG_THRESHOLDS": text})
    assert troubles == []
    (rule,) = (rule for rule in doctor.rules if rule.code == "dead-relu")
    assert vars(rule)["fraction"] == 0.25


def test_every_option_of_doctor_that_is_no_object_has_a_variable() -> None:
    options = set(inspect.signature(Doctor).parameters)
    assert set(READERS) == options - {"monitors", "rules"}


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("EVERY_N_STEPS", "often", "LIGHTNING_DIAG_EVERY_N_STEPS must be a whole number, got 'of"),
        ("EVERY_N_STEPS", "0", "LIGHTNING_DIAG_EVERY_N_STEPS=0: .* at least 1 optimizer step"),
        ("MAX_OVERHEAD", "1%", "LIGHTNING_DIAG_MAX_OVERHEAD must be a number, got '1%'"),
        ("STOP_ON", "nonfinite", "did you mean 'non-finite'"),
        ("MUTE", "nonfinite", "did you mean 'non-finite'"),
        ("THRESHOLDS", "dead-relu=0.5", "LIGHTNING_DIAG_THRESHOLDS must be JSON like {"),
        ("THRESHOLDS", "[1]", "LIGHTNING_DIAG_THRESHOLDS must be JSON like {"),
        ("THRESHOLDS", '{"dead-relu": 1}', "LIGHTNING_DIAG_THRESHOLDS must be JSON like {"),
        ("THRESHOLDS", '{"dead-relu": {"fraction": "x"}}', "`fraction` .* must be a number"),
        ("COMPILED_MODELS", "no", "'eager' or 'leave', got 'no'"),
        ("EVERY_STEPS", "5", "no option .* did you mean 'LIGHTNING_DIAG_EVERY_N_STEPS'"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_the_rest_counts(
    variable: str, text: str, sentence: str
) -> None:
    doctor, troubles = doctor_from({PREFIX + variable: text, "LIGHTNING_DIAG_DIRPATH": "here"})
    (trouble,) = troubles
    assert re.search(sentence, trouble)
    assert "\n" not in trouble
    assert doctor.dirpath == "here"
    assert doctor.every_n_steps is None


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "zero-code.md").read_text(encoding="utf-8")


def test_the_page_lists_every_variable_with_an_example_that_works(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \| (.+?) \|$", page, re.MULTILINE)
    assert {variable for variable, _, _ in rows} == {PREFIX + name.upper() for name in READERS}
    defaults = {name: p.default for name, p in inspect.signature(Doctor).parameters.items()}
    for variable, example, default in rows:
        doctor, troubles = doctor_from({variable: example})
        name = variable.removeprefix(PREFIX).lower()
        assert troubles == []
        assert name == "thresholds" or getattr(doctor, name) != defaults[name]
        assert defaults[name] is None or default == f"`{defaults[name]}`"


def test_the_page_quotes_the_warning(page: str) -> None:
    (quoted,) = re.findall(r"^```text\n(.+)\n```$", page, re.MULTILINE)
    _, (trouble,) = doctor_from({"LIGHTNING_DIAG_STOP_ON": "nonfinite"})
    assert quoted == f"{trouble} Doctor goes on without it."
