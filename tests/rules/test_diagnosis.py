"""Findings over time: said once, updated, withdrawn."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.rules import NotObserved, Rule, default_rules
from lightning_diag.rules.diagnosis import Diagnosis
from lightning_diag.warning import DiagWarning
from rules.stories import LAYERS, call, flat, geometric, lines, meta, run_of, weight


@dataclass(frozen=True)
class Scripted(Rule):
    """Says at each step what it is told to say."""

    code: ClassVar[str] = "dead-relu"
    script: Callable[[int], Severity | None] = field(default=lambda step: None)

    def judge(self, history: History) -> list[Finding]:
        """See `Rule.judge`."""
        step = history.steps[-1]
        severity = self.script(step)
        if severity is None:
            return []
        evidence = Evidence(float(step), 0.0, 1, 1)
        message = f"Seen at {step}."
        return [Finding(self.code, severity, message, "Do.", (), (step, step), evidence)]


class Beginning(Scripted):
    """The same, about how it began."""

    code: ClassVar[str] = "non-finite"
    tells_onset: ClassVar[bool] = True


class Failing(Rule):
    """Fails."""

    code: ClassVar[str] = "exploding-gradient"

    def judge(self, history: History) -> list[Finding]:
        """See `Rule.judge`."""
        raise ZeroDivisionError("by zero")


def play(diagnosis: Diagnosis, steps: range) -> list[list[tuple[str, Severity]]]:
    """Update with a record for each step; return what was news at each."""
    history = History()
    news = []
    for step in steps:
        history.append(Record(step=step, values={"gradient/total_norm": {"": 1.0}}))
        news.append([(found.code, found.severity) for found in diagnosis.update(history)])
    return news


def test_a_finding_is_said_once_and_then_updated() -> None:
    diagnosis = Diagnosis([Scripted(lambda step: "suspect")])
    assert play(diagnosis, range(3)) == [[("dead-relu", "suspect")], [], []]
    (finding,) = diagnosis.findings
    assert finding.message == "Seen at 2."
    assert finding.steps == (0, 2)
    assert finding.evidence.value == 2.0


def test_a_finding_that_got_worse_is_news_and_one_that_got_better_is_not() -> None:
    grades: list[Severity | None] = ["note", "suspect", "note", "suspect", "bad", "suspect", "bad"]
    diagnosis = Diagnosis([Scripted(lambda step: grades[step])])
    said = [[severity for _, severity in news] for news in play(diagnosis, range(7))]
    assert said == [["note"], ["suspect"], [], [], ["bad"], [], []]
    assert diagnosis.findings[0].severity == "bad"


def test_a_finding_that_has_passed_is_kept_with_its_end() -> None:
    diagnosis = Diagnosis([Scripted(lambda step: "bad" if step < 4 else None)])
    play(diagnosis, range(8))
    assert diagnosis.active == []
    (finding,) = diagnosis.findings
    assert finding.steps == (0, 3)
    assert finding.message == "Seen at 3. It was seen until step 3."


def test_a_finding_that_comes_back_is_active_again_and_not_repeated() -> None:
    diagnosis = Diagnosis([Scripted(lambda step: "bad" if step % 4 < 2 else None)])
    assert sum(map(len, play(diagnosis, range(10)))) == 1
    (finding,) = diagnosis.active
    assert finding.steps == (0, 9)
    assert finding.message == "Seen at 9."


def test_what_tells_of_the_onset_keeps_its_first_words() -> None:
    diagnosis = Diagnosis([Beginning(lambda step: "bad" if step < 5 else "suspect")])
    play(diagnosis, range(8))
    (finding,) = diagnosis.findings
    assert finding.message == "Seen at 0."
    assert finding.steps == (0, 7)
    assert finding.severity == "suspect"


@dataclass(frozen=True)
class Excluded(Scripted):
    """A diagnosis by exclusion."""

    code: ClassVar[str] = "suspicious-labels"


def test_a_diagnosis_by_exclusion_is_silent_beside_and_after_what_would_explain_it() -> None:
    for script in (lambda step: "bad", lambda step: "bad" if step < 3 else None):
        diagnosis = Diagnosis(
            [Excluded(lambda step: "suspect" if step > 4 else None), Scripted(script)]
        )
        news = play(diagnosis, range(8))
        assert [code for one in news for code, _ in one] == ["dead-relu"]
        assert [found.code for found in diagnosis.findings] == ["dead-relu"]


def test_a_diagnosis_by_exclusion_becomes_a_note_once_something_explains_it() -> None:
    rules = [Excluded(lambda step: "suspect"), Scripted(lambda step: "bad" if step > 4 else None)]
    diagnosis = Diagnosis(rules)
    news = play(diagnosis, range(8))
    assert news[0] == [("suspicious-labels", "suspect")]
    assert news[5] == [("dead-relu", "bad")]
    dead, labels = diagnosis.findings
    assert dead.code == "dead-relu"
    assert labels.severity == "note"
    assert labels.until == 4
    assert labels.message == (
        "Seen at 4. It was seen until step 4. Since then `dead-relu` would explain it."
    )


def test_what_is_muted_excludes_nothing() -> None:
    rules = [Excluded(lambda step: "suspect"), Scripted(lambda step: "bad")]
    diagnosis = Diagnosis(rules, mute=["dead-relu"])
    play(diagnosis, range(3))
    assert [found.code for found in diagnosis.active] == ["suspicious-labels"]


def test_active_findings_come_before_those_that_passed() -> None:
    rules = [
        Scripted(lambda step: "bad" if step < 2 else None),
        Beginning(lambda step: "note" if step > 3 else None),
    ]
    diagnosis = Diagnosis(rules)
    play(diagnosis, range(6))
    assert [found.code for found in diagnosis.findings] == ["non-finite", "dead-relu"]


def test_a_rule_that_fails_is_switched_off_with_one_warning() -> None:
    diagnosis = Diagnosis([Failing(), Scripted(lambda step: "note")])
    with pytest.warns(DiagWarning, match="`exploding-gradient` is switched off") as caught:
        news = play(diagnosis, range(3))
    assert len(caught) == 1
    assert news[0] == [("dead-relu", "note")]
    assert diagnosis.not_observed == [
        NotObserved("exploding-gradient", "the rule failed: ZeroDivisionError: by zero")
    ]


def test_rules_that_could_not_judge_are_told_with_the_reason() -> None:
    """P20: `not observed`, never `ok`."""
    diagnosis = Diagnosis(default_rules())
    assert diagnosis.update(History()) == []
    codes = [rule.code for rule in default_rules()]
    assert [unseen.code for unseen in diagnosis.not_observed] == codes
    assert {unseen.reason for unseen in diagnosis.not_observed} == {"no step was watched"}


def test_two_rules_of_one_code_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`rules` must hold each rule once, got `dead-relu` twi"):
        Diagnosis([Scripted(), Scripted()])


def test_the_state_is_plain_and_goes_on_where_it_was() -> None:
    """P25."""

    def make() -> Diagnosis:
        return Diagnosis([Scripted(lambda step: "suspect" if step != 5 else None)])

    whole, first, second = make(), make(), make()
    play(whole, range(10))
    play(first, range(6))
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    assert second.findings == first.findings
    assert second.active == []
    assert play(second, range(6, 10)) == [[], [], [], []]
    assert second.findings == whole.findings


def test_the_same_history_gives_every_rank_the_same_findings() -> None:
    """P7."""
    first, second = ([*_sick().findings] for _ in range(2))
    assert first == second


def _sick() -> Diagnosis:
    """Judge, record by record, a run whose deep tanh units saturate and starve what lies before."""

    def change(step: int, values: dict[str, dict[str, float]]) -> None:
        names = [weight(i) for i in range(LAYERS)]
        values["gradient/norm"] = dict(zip(names, geometric(1e-8, 20.0), strict=True))
        values["update/ratio"] = dict(zip(names, geometric(1e-8, 10.0), strict=True))
        values["activation/saturated_fraction"][call(4, "tanh")] = 0.9

    diagnosis, history = Diagnosis(default_rules()), run_of([], meta(function="tanh"))
    for record in lines(change, loss=flat, function="tanh"):
        history.append(record)
        diagnosis.update(history)
    return diagnosis


def test_a_whole_run_is_told_as_one_cause_and_its_consequence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cause, consequence, last = _sick().active
    assert cause.code == "saturated-activation"
    assert cause.cause_of == ("vanishing-gradient", "loss-plateau")
    assert last.caused_by == "vanishing-gradient"
    assert consequence.code == "vanishing-gradient"
    assert consequence.caused_by == "saturated-activation"
    assert consequence.severity == "bad"


# --- when it began, and what happened then ---


def test_what_happened_just_before_is_kept_as_it_was_at_the_onset() -> None:
    history = History()
    diagnosis = Diagnosis([Scripted(lambda step: "bad" if step >= 20 else None)])
    for step in range(40):
        rate = 0.1 if step < 19 else 1.0
        history.append(Record(step, {"lr/value": {"SGD/group0": rate}}))
        diagnosis.update(history)
    (event,) = diagnosis.findings[0].before
    assert (event.kind, event.step) == ("lr-rise", 19)


def test_a_passed_finding_says_so_and_one_that_lasts_does_not() -> None:
    diagnosis = Diagnosis([Scripted(lambda step: "bad" if step < 4 else None)])
    play(diagnosis, range(3))
    assert diagnosis.findings[0].until is None
    play(diagnosis, range(3, 8))
    assert diagnosis.findings[0].until == 3


def test_a_problem_seen_as_soon_as_it_could_be_judged_may_explain_what_began_before() -> None:
    """A rule that needs a hundred steps cannot say that its problem began after them."""

    class Late(Beginning):
        code: ClassVar[str] = "exploding-gradient"

        def check(self, history: History) -> list[Finding] | NotObserved:
            if history.steps[-1] < 30:
                return self.not_observed("too early")
            return self.judge(history)

    early = Scripted(lambda step: "bad" if step >= 5 else None)
    at_once = Diagnosis([early, Late(lambda step: "bad")])
    play(at_once, range(40))
    later = Diagnosis([early, Late(lambda step: "bad" if step >= 35 else None)])
    play(later, range(40))
    causes = [
        {found.code: found.caused_by for found in diagnosis.findings}["dead-relu"]
        for diagnosis in (at_once, later)
    ]
    assert causes == ["exploding-gradient", None]
    second = Diagnosis([early, Late(lambda step: "bad")])
    second.load_state_dict(json.loads(json.dumps(at_once.state_dict())))
    play(second, range(40, 50))
    assert {f.code: f.caused_by for f in second.findings}["dead-relu"] == "exploding-gradient"


# --- muted ---


def test_a_muted_rule_is_no_news_and_no_finding_and_explains_nothing() -> None:
    rules = [Scripted(lambda step: "bad"), Beginning(lambda step: "bad")]
    diagnosis = Diagnosis(rules, mute=["dead-relu"])
    assert play(diagnosis, range(3)) == [[("non-finite", "bad")], [], []]
    assert [found.code for found in diagnosis.findings] == ["non-finite"]
    assert diagnosis.active == diagnosis.findings
    assert diagnosis.muted(History()) == {"dead-relu": "bad, seen from step 0 to 2"}


def test_a_muted_rule_that_found_nothing_is_listed_too() -> None:
    diagnosis = Diagnosis(default_rules(), mute=["dead-relu", "vanishing-gradient:net*"])
    assert diagnosis.muted(run_of([], meta(layers=1))) == {
        "dead-relu": "not seen",
        "vanishing-gradient:net*": "3 places left out",
    }


def test_a_rule_that_is_muted_at_a_place_judges_the_others() -> None:
    def change(step: int, values: dict[str, dict[str, float]]) -> None:
        values["dead_relu/fraction"] |= {call(1): 0.9, call(3): 0.6}

    def places(mute: list[str]) -> list[tuple[str, ...]]:
        diagnosis, history = Diagnosis(default_rules(), mute), run_of([], meta())
        for record in lines(change):
            history.append(record)
            diagnosis.update(history)
        return [f.places for f in diagnosis.findings if f.code == "dead-relu"]

    assert places([]) == [(call(1), call(3))]
    assert places(["dead-relu:net.1*"]) == [(call(3),)]
    assert places(["dead-relu:net.[13]*"]) == []
    assert places(["non-finite:net.1*"]) == [(call(1), call(3))]


def test_a_rule_that_fails_is_told_by_one_process_alone() -> None:
    diagnosis = Diagnosis([Failing()])
    diagnosis.warns = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(diagnosis, range(3))
    assert diagnosis.not_observed[0].reason.startswith("the rule failed")


def test_a_state_of_rules_that_are_gone_or_muted_by_now_is_left_behind() -> None:
    """P25: a run may go on with other rules."""
    diagnosis = Diagnosis([Scripted(lambda step: "bad"), Beginning(lambda step: "bad")])
    play(diagnosis, range(3))
    state = diagnosis.state_dict()
    fewer = Diagnosis([Beginning(lambda step: "bad")])
    fewer.load_state_dict(state)
    assert [found.code for found in fewer.findings] == ["non-finite"]
    muted = Diagnosis(diagnosis.rules, mute=["dead-relu"])
    muted.load_state_dict(state)
    assert [found.code for found in muted.findings] == ["non-finite"]
    assert muted.muted(History()) == {"dead-relu": "bad, seen from step 0 to 2"}
