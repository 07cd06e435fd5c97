"""Cause before consequence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from random import Random

import pytest

from lightning_diag.finding import Event, Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.causes import BEHIND, CAUSES, explain
from lightning_diag.rules.experiments import EXPERIMENTS
from lightning_diag.rules.relations import EXCLUDED_BY, ORIGINS, RELATIONS
from rules.stories import call, meta, story, weight


def finding(
    code: str,
    first: int = 0,
    *,
    severity: Severity = "bad",
    places: Sequence[str] = (),
    before: Sequence[Event] = (),
) -> Finding:
    """Return a finding of no particular content."""
    return Finding(
        code,
        severity,
        "It is.",
        "Mend it.",
        tuple(places),
        (first, 100),
        Evidence(1.0, 0.5, 10, 5),
        before=tuple(before),
    )


def explained(findings: Sequence[Finding], unsure: Sequence[str] = ()) -> dict[str, Finding]:
    """Return findings with their causes, by code."""
    return {f.code: f for f in explain(findings, story(steps=[0]), unsure)}


def told(findings: Sequence[Finding], history: History | None = None) -> list[str]:
    """Return codes in order, each with its cause and its consequences."""
    return [
        f"{found.code} < {found.caused_by} > {' '.join(found.cause_of)}"
        for found in explain(findings, history or story(steps=[0]))
    ]


def test_one_cause_explains_the_chain_that_follows_from_it() -> None:
    findings = [
        finding("non-finite", 9),
        finding("exploding-gradient", 7),
        finding("learning-rate-too-high", 2),
    ]
    assert told(findings) == [
        "learning-rate-too-high < None > exploding-gradient non-finite",
        "exploding-gradient < learning-rate-too-high > non-finite",
        "non-finite < exploding-gradient > ",
    ]


def test_the_most_direct_cause_is_taken() -> None:
    findings = [finding("dead-relu", 9), finding("learning-rate-too-high", 2)]
    assert told(findings)[1] == "dead-relu < learning-rate-too-high > "
    findings.append(finding("exploding-gradient", 8))
    assert told(findings)[2] == "dead-relu < exploding-gradient > "


@pytest.mark.parametrize(("began", "cause"), [(109, None), (108, "exploding-gradient")])
def test_what_began_later_is_no_cause(began: int, cause: str | None) -> None:
    """Within the spacing of watched steps, order cannot be told."""
    findings = [finding("dead-relu", 96), finding("exploding-gradient", began)]
    (dead,) = [f for f in explain(findings, story(steps=[0])) if f.code == "dead-relu"]
    assert dead.caused_by == cause


@pytest.mark.parametrize(("layer", "cause"), [(3, "saturated-activation"), (0, None)])
def test_what_cuts_gradients_off_lies_behind_what_starves(layer: int, cause: str | None) -> None:
    """A layer starves because of what lies between it and the loss."""
    history = story(function="tanh", steps=[0])
    findings = [
        finding("vanishing-gradient", places=[weight(1), weight(2)]),
        finding("saturated-activation", places=[call(layer, "tanh")]),
    ]
    (starved,) = [f for f in explain(findings, history) if f.code == "vanishing-gradient"]
    assert starved.caused_by == cause


def test_places_that_are_not_known_are_no_objection() -> None:
    findings = [finding("vanishing-gradient"), finding("dead-relu", places=["elsewhere"])]
    assert told(findings)[1] == "vanishing-gradient < dead-relu > "


def test_missing_gradient_and_parameter_not_in_optimizer_stand_apart() -> None:
    findings = [finding("missing-gradient"), finding("parameter-not-in-optimizer")]
    assert all(found.caused_by is None for found in explain(findings, story(steps=[0])))


def test_the_family_with_the_most_severe_member_comes_first() -> None:
    findings = [
        finding("parameter-not-in-optimizer", severity="suspect"),
        finding("dead-relu", 3, severity="bad"),
        finding("learning-rate-too-high", 2, severity="suspect"),
    ]
    assert [line.split()[0] for line in told(findings)] == [
        "learning-rate-too-high",
        "dead-relu",
        "parameter-not-in-optimizer",
    ]


def test_a_note_explains_notes_alone_unless_it_is_of_the_data_or_the_set_up() -> None:
    """What did no harm in a run that does well has not brought about what did."""
    for severity, cause in (("note", "learning-rate-too-high"), ("suspect", None)):
        findings = [
            finding("dead-relu", 3, severity=severity),  # type: ignore[arg-type]
            finding("learning-rate-too-high", 2, severity="note"),
        ]
        assert explained(findings)["dead-relu"].caused_by == cause


@pytest.mark.parametrize(
    ("effect", "severity"), [("bad", "suspect"), ("suspect", "suspect"), ("note", "note")]
)
def test_data_that_bring_about_a_problem_are_no_mere_note(
    effect: Severity, severity: Severity
) -> None:
    findings = [
        finding("dead-relu", 9, severity=effect),
        finding("unnormalised-input", severity="note"),
    ]
    found = explained(findings)
    assert found["dead-relu"].caused_by == "unnormalised-input"
    assert found["unnormalised-input"].severity == severity


@pytest.mark.parametrize(("dead", "collapsed"), [(0, 3), (2, 3), (3, 0)])
def test_units_die_before_a_signal_is_lost_or_because_it_is(dead: int, collapsed: int) -> None:
    """Dead units nearer to the input shrink the signal; where it is lost, deeper ones follow."""
    findings = [
        finding("dead-relu", places=[call(dead)]),
        finding("collapsed-activation", places=[call(collapsed)]),
    ]
    found = {f.code: f.caused_by for f in explain(findings, story(steps=[0]))}
    first = dead < collapsed
    assert found["dead-relu"] == (None if first else "collapsed-activation")
    assert found["collapsed-activation"] == ("dead-relu" if first else None)


@pytest.mark.parametrize(
    ("began", "dead", "root"),
    [(0, 3, "collapsed-activation"), (0, 2, "dead-relu"), (1, 3, "dead-relu")],
)
def test_units_that_are_silent_from_the_start_from_some_depth_on_have_lost_their_signal(
    began: int, dead: int, root: str
) -> None:
    """The signal of thirty ReLUs fades little by little, and is called lost behind the first that
    are silent for it."""
    findings = [
        finding("dead-relu", began, places=[call(dead)]),
        finding("collapsed-activation", places=[call(dead + 2)]),
    ]
    history = story(steps=[0], about=meta(layers=8))
    assert [f.code for f in explain(findings, history) if not f.caused_by] == [root]


@pytest.mark.parametrize(
    ("saturated", "starved", "root"),
    [(90, 40, "vanishing-gradient"), (40, 40, "saturated-activation")],
)
def test_sigmoids_saturate_after_the_gradient_has_vanished_or_make_it_vanish(
    saturated: int, starved: int, root: str
) -> None:
    """Glorot and Bengio, 2010: the last hidden layer saturates while the first ones stand still."""
    findings = [
        finding("saturated-activation", saturated),
        finding("vanishing-gradient", starved),
    ]
    assert [f.code for f in explain(findings, story(steps=[0])) if not f.caused_by] == [root]


def test_a_plateau_may_be_kept_up_by_what_began_early_in_it() -> None:
    def cause(began: int) -> str | None:
        findings = [finding("loss-plateau"), finding("vanishing-gradient", began)]
        longer = [replace(f, steps=(f.steps[0], 400)) for f in findings]
        return explained(longer)["loss-plateau"].caused_by

    assert cause(68) == "vanishing-gradient"
    assert cause(200) == "vanishing-gradient"
    assert cause(260) is None


def test_a_learning_rate_that_is_no_longer_too_low_explains_nothing_that_is_still_there() -> None:
    for until, cause in ((None, "learning-rate-too-low"), (90, None)):
        rate = replace(finding("learning-rate-too-low"), until=until)
        assert explained([finding("loss-plateau"), rate])["loss-plateau"].caused_by == cause


def test_what_is_always_there_is_a_rival_and_never_stands_before_what_began() -> None:
    findings = [
        finding("constant-prediction", 3),
        finding("not-zero-centred", 141, severity="note"),
        finding("vanishing-gradient", 13),
    ]
    told = explained(findings)["constant-prediction"]
    assert told.caused_by == "vanishing-gradient"
    assert told.rivals == ("not-zero-centred",)
    assert explained(findings[:2])["constant-prediction"].caused_by == "not-zero-centred"


@pytest.mark.parametrize(
    ("effect", "cause"),
    [
        ("dead-relu", "embedding-collapse"),
        ("dead-relu", "dead-embedding"),
        ("initial-loss", "over-regularisation"),
        ("learning-rate-too-high", "over-regularisation"),
        ("dead-relu", "over-regularisation"),
        ("exploding-gradient", "over-regularisation"),
        ("noisy-gradient", "over-regularisation"),
        ("exploding-gradient", "class-imbalance"),
        ("overfitting", "class-imbalance"),
        ("noisy-gradient", "batch-norm-gap"),
        ("vanishing-gradient", "batch-norm-gap"),
        ("missing-gradient", "unnormalised-input"),
    ],
)
def test_data_and_set_up_come_before_what_they_bring_about(effect: str, cause: str) -> None:
    """Whatever looks worse."""
    findings = [finding(effect, severity="bad"), finding(cause, severity="suspect")]
    assert [f.code for f in explain(findings, story(steps=[0]))] == [cause, effect]


def test_a_diagnosis_by_exclusion_that_was_withdrawn_explains_nothing() -> None:
    for until, cause in ((None, "suspicious-labels"), (90, "over-regularisation")):
        found = [
            finding("loss-plateau"),
            finding("over-regularisation", 257, severity="suspect"),
            replace(finding("suspicious-labels", severity="note"), until=until),
        ]
        told = explained(found)
        assert told["loss-plateau"].caused_by == cause
        if until:
            assert told["suspicious-labels"].severity == "note"


def test_severity_and_onset_rank_what_nothing_explains() -> None:
    findings = [
        finding("saturated-activation", 5, severity="suspect"),
        finding("parameter-not-in-optimizer", 9),
        finding("missing-gradient", 4),
    ]
    assert [line.split()[0] for line in told(findings)] == [
        "missing-gradient",
        "parameter-not-in-optimizer",
        "saturated-activation",
    ]


def test_any_set_of_findings_gives_trees_whatever_its_order() -> None:
    codes = ["non-finite", "dead-relu", "exploding-gradient", "learning-rate-too-high"]
    results = []
    for order in permutations(codes):
        ranked = explain([finding(code) for code in order], story(steps=[0]))
        results.append(ranked)
        position = {found.code: i for i, found in enumerate(ranked)}
        for found in ranked:
            assert found.caused_by is None or position[found.caused_by] < position[found.code]
            assert all(position[code] > position[found.code] for code in found.cause_of)
    assert all(
        {f.code: (f.caused_by, f.cause_of) for f in result}
        == {f.code: (f.caused_by, f.cause_of) for f in results[0]}
        for result in results
    )


def test_every_cause_in_the_table_is_taken_when_it_is_alone() -> None:
    """But for those that must be known to lie nearer to the input, or to have come first."""
    for effect, relations in RELATIONS.items():
        for relation in relations:
            if relation.side == "ahead" or relation.must_lead:
                assert explained([finding(effect), finding(relation.cause)])[effect].caused_by != (
                    relation.cause
                )
            else:
                line = told([finding(effect), finding(relation.cause)])[1]
                assert line == f"{effect} < {relation.cause} > "


def test_whatever_is_found_anywhere_at_any_time_has_an_end_of_its_causes() -> None:
    """Some may explain each other; place and time let them do so one way only."""
    history, codes = story(function="tanh", steps=[0]), sorted({*CAUSES, *ORIGINS})
    draw = Random(7)
    spots = [weight(1), weight(3), call(0, "tanh"), call(2, "tanh"), call(4, "tanh")]
    for _ in range(400):
        findings = [
            finding(
                code,
                draw.choice([0, 3, 10, 50, 90]),
                severity=draw.choice(["note", "suspect", "bad"]),
                places=draw.sample(spots, draw.randrange(3)),
            )
            for code in codes
        ]
        unsure = [code for code in codes if draw.random() < 0.3]
        found = {f.code: f for f in explain(findings, history, unsure)}
        assert found.keys() == set(codes)
        for code in codes:
            assert code not in found[code].cause_of


# --- how sure it is ---


def test_a_cause_that_began_earlier_and_has_no_rival_is_sure() -> None:
    found = explained([finding("dead-relu", 40), finding("learning-rate-too-high", 10)])
    assert found["dead-relu"].confidence == "high"
    assert found["dead-relu"].because == (
        "Large steps push units to where no input moves them.",
        "It began 30 steps earlier.",
        "Nothing else that was found explains it.",
    )
    assert found["learning-rate-too-high"].confidence is None
    assert found["learning-rate-too-high"].because == ()


@pytest.mark.parametrize(("every", "sure"), [(1, "high"), (3, "high"), (4, "medium")])
def test_order_is_known_as_exactly_as_steps_are_watched(every: int, sure: str) -> None:
    history = story(steps=list(range(0, 100, every)))
    findings = [finding("dead-relu", 40), finding("learning-rate-too-high", 36)]
    assert explain(findings, history)[1].confidence == sure


def test_a_cause_seen_at_the_same_look_is_less_sure() -> None:
    found = explained([finding("dead-relu", 10), finding("learning-rate-too-high", 10)])
    assert found["dead-relu"].confidence == "medium"
    assert "which came first is not known" in " ".join(found["dead-relu"].because)


def test_a_rise_of_the_learning_rate_just_before_speaks_for_the_learning_rate() -> None:
    rise = Event("lr-rise", 9, "The learning rate rose.")
    rate = finding("learning-rate-too-high", 10)
    for dead, cause in (
        (finding("dead-relu", 10, before=[rise]), rate),
        (finding("dead-relu", 10), finding("learning-rate-too-high", 10, before=[rise])),
    ):
        told = explained([dead, cause])["dead-relu"]
        assert told.confidence == "high"
        assert rise.text in told.because
    fall = Event("lr-fall", 9, "The learning rate fell.")
    told = explained([finding("dead-relu", 10, before=[fall]), rate])["dead-relu"]
    assert told.confidence == "medium"
    assert fall.text not in told.because


def test_what_lies_between_there_and_the_loss_is_sure() -> None:
    history = story(function="tanh", steps=[0])
    findings = [
        finding("vanishing-gradient", places=[weight(1)]),
        finding("saturated-activation", places=[call(3, "tanh")]),
    ]
    (starved,) = [f for f in explain(findings, history) if f.code == "vanishing-gradient"]
    assert starved.confidence == "high"
    assert "It lies between there and the loss." in starved.because


def test_what_is_wrong_with_the_data_came_first_whenever_it_was_noticed() -> None:
    found = explained([finding("dead-relu", 3), finding("unnormalised-input", 50)])
    assert found["dead-relu"].caused_by == "unnormalised-input"
    assert "It was there before training began." in found["dead-relu"].because


def test_what_was_there_as_soon_as_it_could_be_judged_may_have_begun_earlier() -> None:
    findings = [finding("dead-relu", 3), finding("learning-rate-too-high", 50)]
    assert explained(findings)["dead-relu"].caused_by is None
    told = explained(findings, ["learning-rate-too-high"])["dead-relu"]
    assert told.caused_by == "learning-rate-too-high"


# --- two causes, and the experiment ---


def test_two_causes_for_which_as_much_speaks_are_both_said_with_an_experiment() -> None:
    findings = [
        finding("overfitting"),
        finding("suspicious-labels"),
        finding("train-validation-shift"),
    ]
    told = explained(findings)["overfitting"]
    assert told.caused_by == "train-validation-shift"
    assert told.rivals == ("suspicious-labels",)
    assert told.confidence == "low"
    assert "Hold back a tenth of the training set" in told.experiment


def test_a_pair_without_an_experiment_of_its_own_gets_the_one_that_always_tells() -> None:
    findings = [finding("initial-loss"), finding("init-scale"), finding("unscaled-target")]
    told = explained(findings)["initial-loss"]
    assert told.rivals == ("unscaled-target",)
    assert told.experiment == (
        "Mend init-scale alone and train as long again: if initial-loss is gone, that was it; if "
        "it is back, it was unscaled-target."
    )


def test_the_cause_for_which_more_speaks_has_no_rival() -> None:
    findings = [
        finding("diverging-loss", 40),
        finding("loss-spike", 40),
        finding("learning-rate-too-high", 38, before=[Event("lr-rise", 37, "The rate rose.")]),
    ]
    assert explained(findings)["loss-spike"].caused_by == "learning-rate-too-high"
    findings = [
        finding("loss-oscillation", 40),
        finding("learning-rate-too-high", 40),
        finding("noisy-gradient", 10),
    ]
    told = explained(findings)["loss-oscillation"]
    assert told.caused_by == "noisy-gradient"
    assert told.rivals == ()
    assert told.experiment == ""
    assert told.confidence == "medium"


def test_two_consequences_of_one_cause_are_no_rivals() -> None:
    findings = [
        finding("loss-plateau", 50),
        finding("dead-relu", 40),
        finding("collapsed-activation", 45, places=[call(0)]),
        finding("learning-rate-too-high", 10),
    ]
    assert explained(findings)["loss-plateau"].rivals == ()


def test_what_no_longer_has_a_cause_is_no_longer_said_to_have_one() -> None:
    before = explained([finding("dead-relu", 40), finding("learning-rate-too-high", 10)])
    after = explained([before["dead-relu"]])["dead-relu"]
    assert after == finding("dead-relu", 40)


def test_every_relation_says_how_it_works_in_a_sentence() -> None:
    for effect, relations in RELATIONS.items():
        causes = [relation.cause for relation in relations]
        assert len(causes) == len(set(causes)), effect
        assert all(r.why[0].isupper() and r.why.endswith(".") for r in relations), effect


def test_what_excludes_a_diagnosis_is_none_of_its_consequences() -> None:
    for code, others in EXCLUDED_BY.items():
        assert code not in others
        assert not {effect for effect, causes in CAUSES.items() if code in causes} & others


def test_every_experiment_is_for_two_causes_of_one_problem() -> None:
    for pair in EXPERIMENTS:
        assert len(pair) == 2
        assert any(pair <= set(causes) for causes in CAUSES.values()), pair
    assert not ORIGINS & {effect for effect, _ in BEHIND}


def test_no_findings_have_no_causes() -> None:
    assert explain([], History()) == []


def test_all_that_is_known_of_a_cause_survives_a_file() -> None:
    rise = Event("lr-rise", 9, "The learning rate rose.")
    findings = [
        finding("initial-loss", 10, before=[rise]),
        finding("init-scale"),
        finding("output-activation-mismatch"),
    ]
    for found in explain(findings, story(steps=[0])):
        assert Finding.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    told = explained(findings)["initial-loss"]
    assert told.rivals
    assert told.before == (rise,)
    old = {k: v for k, v in told.to_dict().items() if k not in ("because", "before", "until")}
    assert Finding.from_dict(old).because == ()
