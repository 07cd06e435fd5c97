"""Cause before consequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.causes import CAUSES, explain
from rules.stories import call, story, weight


def finding(
    code: str, first: int = 0, *, severity: Severity = "bad", places: Sequence[str] = ()
) -> Finding:
    """Return a finding of no particular content."""
    evidence = Evidence(1.0, 0.5, 10, 5)
    return Finding(code, severity, "It is.", "Mend it.", tuple(places), (first, 100), evidence)


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
        finding("learning-rate-too-high", 2, severity="note"),
    ]
    assert [line.split()[0] for line in told(findings)] == [
        "learning-rate-too-high",
        "dead-relu",
        "parameter-not-in-optimizer",
    ]


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
    for effect, causes in CAUSES.items():
        for cause in causes:
            assert told([finding(effect), finding(cause)])[1] == f"{effect} < {cause} > "


def test_no_findings_have_no_causes() -> None:
    assert explain([], History()) == []
