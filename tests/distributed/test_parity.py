"""Two ranks fed the samples of one give its numbers; both hold the same ones (P6, P7)."""

from __future__ import annotations

import pytest

from distributed.compare import differences, unlike
from distributed.launch import Outcome, launch
from distributed.parity import CONFIGURATIONS, STEPS, UNEVEN
from distributed.training import BATCH

pytestmark = pytest.mark.multiprocess

SHARES = {"bfloat": 0.05}
"""One element of 48 may round to 0 in one run and not in the other."""
TOLERANCES = {"single": 1e-4, "bfloat": 1e-2}
"""Eight bits of mantissa are right to 0.4 %; what is not listed is computed in float64."""


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("parity", tmp_path_factory)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_two_ranks_give_the_numbers_of_one(outcome: Outcome, name: str) -> None:
    together, alone = outcome.of("watched")[0][name], outcome.alone("watched")[name]
    found = differences(
        together["records"],
        alone["records"],
        rtol=TOLERANCES.get(name, 1e-5),
        fractions=SHARES.get(name, 0.0),
    )
    assert not found, found[:20]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_metric_was_compared(outcome: Outcome, name: str) -> None:
    records = outcome.alone("watched")[name]["records"]
    metrics = {
        metric for r in records for kind in ("values", "dense", "lists") for metric in r[kind]
    }
    assert {
        "gradient/norm",
        "gradient/clip_coefficient",
        "activation/std",
        "activation/saturated_fraction",
        "activation/histogram",
        "gradient/histogram",
        "weight/histogram",
        "dead_relu/fraction",
        "dead_relu/units",
        "update/ratio",
        "loss/train",
        "loss/noise",
    } <= metrics
    assert sum(len(record["dense"]["loss/train"]) for record in records) == STEPS
    assert records[-1]["values"]["dead_relu/fraction"]["act/relu#0"] > 0


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_both_ranks_hold_the_same_history_bit_for_bit(outcome: Outcome, name: str) -> None:
    first, second = (result[name] for result in outcome.of("watched"))
    assert not unlike(first["records"], second["records"])
    assert not unlike(first["meta"], second["meta"])
    assert first["warnings"] == second["warnings"] == []


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_weights_are_bit_for_bit_those_without_monitors(outcome: Outcome, name: str) -> None:
    bare = [result[name] for result in outcome.of("bare")]
    assert [result[name]["weights"] for result in outcome.of("watched")] == bare


def test_a_slow_rank_and_a_fast_one_watch_the_same_steps(outcome: Outcome) -> None:
    first, second = outcome.of("slowed")
    steps = [record["step"] for record in first["records"]]
    assert steps == [record["step"] for record in second["records"]]
    assert 4 < len(steps) < 80, "the budget must have had a say"
    assert not unlike(first["records"], second["records"])


def test_ranks_with_batches_of_unlike_sizes_hold_the_same_history(outcome: Outcome) -> None:
    first, second = outcome.of("uneven")
    assert not unlike(first["records"], second["records"])
    assert not unlike(first["meta"], second["meta"])
    assert first["records"][-1]["epoch"] == 1


def test_samples_pool_whatever_the_sizes_of_batches(outcome: Outcome) -> None:
    together, alone = outcome.of("uneven")[0]["records"], outcome.alone("uneven")["records"]
    assert not differences(together[:1], alone[:1], rtol=1e-4, only=["activation/"])
    windows = [record["values"]["dead_relu/window_samples"]["act/relu#0"] for record in together]
    assert windows[:2] == [BATCH, 2 * BATCH]
    assert sum(UNEVEN) == BATCH


def test_lightnings_own_sampler_leaves_ranks_with_the_same_history(outcome: Outcome) -> None:
    first, second = outcome.of("frequent")
    assert not unlike(first["records"], second["records"])
    assert [record["step"] for record in first["records"]] == list(range(STEPS))
