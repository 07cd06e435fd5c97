"""`parameter-not-in-optimizer`."""

from __future__ import annotations

from typing import Any

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.parameter_not_in_optimizer import ParameterNotInOptimizer
from rules.stories import flat, meta, story, weight


def _layer(i: int) -> list[str]:
    return [weight(i), f"net.{i}.bias"]


def test_a_layer_that_was_left_out_is_suspect() -> None:
    """P2."""
    (finding,) = ParameterNotInOptimizer()(story(about=meta(outside=_layer(5))))
    assert finding.severity == "suspect"
    assert finding.places == tuple(_layer(5))
    assert finding.message == (
        "2 of 12 trainable parameters are in no optimizer: `net.5.weight` and `net.5.bias`."
    )


def test_a_layer_that_is_held_in_part_is_bad_and_named_first() -> None:
    """P22: a filter by value drops a bias that equals another."""
    outside = [*_layer(1), "net.3.bias"]
    (finding,) = ParameterNotInOptimizer()(story(about=meta(outside=outside)))
    assert finding.severity == "bad"
    assert finding.places == ("net.3.bias", *_layer(1))
    assert finding.message.endswith("Of `net.3.bias` the same layer is held in part.")


def test_it_is_bad_if_the_loss_stands_still() -> None:
    (finding,) = ParameterNotInOptimizer()(story(about=meta(outside=_layer(5)), loss=flat))
    assert finding.severity == "bad"


def test_frozen_parameters_belong_in_no_optimizer() -> None:
    assert ParameterNotInOptimizer()(story(about=meta(frozen=[0, 1]))) == []


def test_fewer_than_the_threshold_are_let_pass() -> None:
    history = story(about=meta(outside=_layer(5)))
    assert ParameterNotInOptimizer(least=3)(history) == []
    assert len(ParameterNotInOptimizer(least=2)(history)) == 1


def test_without_metadata_nothing_is_observed() -> None:
    verdict = ParameterNotInOptimizer().check(story(about={"optimizers": []}))
    assert verdict == NotObserved("parameter-not-in-optimizer", "the parameters are not known")


def test_a_moving_average_that_is_left_trainable_is_a_note() -> None:
    known = meta()
    for i in (0, 1):
        like = known["parameters"][weight(i)]
        copy = {**like, "layer": f"average.{i}", "optimizers": []}
        known["parameters"][f"average.{i}.weight"] = copy
    (finding,) = ParameterNotInOptimizer()(story(about=known))
    assert finding.severity == "note"

    def reached(step: int, values: Any) -> None:
        values["gradient/norm"]["average.1.weight"] = 1.0

    (tower,) = ParameterNotInOptimizer()(story(reached, about=known))
    assert tower.severity == "suspect"
