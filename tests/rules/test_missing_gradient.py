"""`missing-gradient`."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.missing_gradient import MissingGradient
from lightning_diag.siblings import untrained_copies
from rules.stories import STEPS, flat, layer, meta, story, weight


def _none(*layers: int, until: int = 10**9, after: int = -1) -> Any:
    def change(step: int, values: Any) -> None:
        for i in layers:
            if after < step < until:
                values["gradient/missing"][weight(i)] = 1.0
                del values["gradient/norm"][weight(i)]

    return change


def _zero(*layers: int, until: int = 10**9) -> Any:
    def change(step: int, values: Any) -> None:
        if step < until:
            for i in layers:
                values["gradient/layer_norm"][layer(i)] = 0.0

    return change


def test_a_detached_graph_is_found() -> None:
    (finding,) = MissingGradient()(story(_none(0, 1)))
    assert finding.severity == "suspect"
    assert finding.places == (weight(0), weight(1))
    assert finding.message == (
        "No gradient at all reaches `net.0.weight` and `net.1.weight`, in each of the 16 watched "
        "steps from 354 to 399 (layers: 2)."
    )


def test_it_is_bad_if_the_loss_stands_still() -> None:
    (finding,) = MissingGradient()(story(_none(0, 1), loss=flat))
    assert finding.severity == "bad"


def test_a_layer_of_exact_zeros_is_found() -> None:
    (finding,) = MissingGradient()(story(_zero(2), loss=flat))
    assert finding.places == (layer(2),)
    assert "Every gradient of `net.2` is exactly zero" in finding.message


def test_both_kinds_are_told_together() -> None:
    def change(step: int, values: Any) -> None:
        _none(0)(step, values)
        _zero(3)(step, values)

    (finding,) = MissingGradient()(story(change))
    assert finding.places == (weight(0), layer(3))
    assert "exactly zero" in finding.message
    assert "(layers: 2)" in finding.message


def test_a_layer_without_any_gradient_is_told_once() -> None:
    def change(step: int, values: Any) -> None:
        _none(0)(step, values)
        _zero(0)(step, values)

    (finding,) = MissingGradient()(story(change))
    assert finding.places == (weight(0),)


@pytest.mark.parametrize("change", [_none(0, until=398), _zero(0, until=398)])
def test_one_gradient_among_the_newest_is_enough_for_silence(change: Any) -> None:
    assert MissingGradient()(story(change)) == []


def test_adapters_that_start_at_zero_are_healthy() -> None:
    """LoRA: the first factor's gradient is exactly zero until the second has moved."""
    for many in range(1, 30):
        assert MissingGradient()(story(_zero(0, 1, 2, until=1), steps=STEPS[:many])) == []


def test_a_player_that_takes_no_step_is_not_missing() -> None:
    """P35: a toggled-off network has no numbers at all."""

    def change(step: int, values: Any) -> None:
        off = range(3) if step % 2 else range(3, 6)
        for i in off:
            for metric in ("gradient/missing", "gradient/norm"):
                del values[metric][weight(i)]
            del values["gradient/layer_norm"][layer(i)]

    about = meta(optimizers=["Adam", "Adam"], owner=lambda i: i // 3)
    assert MissingGradient()(story(change, about=about)) == []


def test_a_player_without_gradients_at_its_own_steps_is_found() -> None:
    def change(step: int, values: Any) -> None:
        if step % 2:
            values["gradient/missing"] = {weight(0): 1.0}
        else:
            values["gradient/missing"] = {weight(5): 0.0}

    about = meta(optimizers=["Adam", "Adam"], owner=lambda i: i // 3)
    (finding,) = MissingGradient()(story(change, about=about))
    assert finding.places == (weight(0),)


def test_a_loss_that_has_reached_zero_needs_no_gradient() -> None:
    """A hinge loss that every sample fulfils."""
    history = story(_zero(*range(6)), loss=lambda step: max(0.0, 1.0 - step / 100))
    assert MissingGradient()(history) == []


def test_too_few_looks_are_not_observed() -> None:
    rule = MissingGradient(records=16)
    assert rule(story(_none(0), steps=STEPS[:15])) == []
    assert len(rule(story(_none(0), steps=STEPS[:16]))) == 1


@pytest.mark.parametrize(
    ("layers", "looks", "found"),
    [((0, 1, 2), 8, 1), ((0, 1, 2), 7, 0), ((1, 2), 8, 0), ((0,), 8, 1)],
)
def test_a_cut_below_which_all_is_zero_needs_half_as_many_looks(
    layers: tuple[int, ...], looks: int, found: int
) -> None:
    """Blocks that are dropped at random leave those before them a way around."""

    def change(step: int, values: Any) -> None:
        if step in STEPS[-looks:]:
            _zero(*layers)(step, values)

    assert len(MissingGradient()(story(change, loss=flat))) == found
    assert MissingGradient()(story(change)) == []


TEACHER = {
    **{
        f"{net}.{i}.{kind}": [4, 4]
        for net in ("student", "teacher")
        for i in (0, 1)
        for kind in "wb"
    },
    "head.w": [2, 4],
}


@pytest.mark.parametrize(
    ("missing", "shapes", "copies"),
    [
        ("teacher.0.w teacher.0.b teacher.1.w teacher.1.b", TEACHER, True),
        ("teacher.0.w teacher.0.b", TEACHER, False),  # a part of a branch
        ("student.0.w teacher.0.w teacher.0.b teacher.1.w teacher.1.b", TEACHER, False),
        ("head.w", TEACHER, False),
        ("net.0.w net.1.w", {f"net.{i}.w": [4, 4] for i in range(4)}, False),  # equal layers
        ("h.0.a.w h.0.b.w", {f"h.{i}.{n}.w": [4, 4] for i in range(3) for n in "ab"}, False),
        (
            "b.0.w b.1.w",
            {"a.0.w": [4, 4], "a.1.w": [4, 8], "b.0.w": [4, 4], "b.1.w": [4, 4]},
            False,
        ),
    ],
)
def test_a_moving_average_is_told_from_a_layer_that_is_cut_off(
    missing: str, shapes: dict[str, list[int]], *, copies: bool
) -> None:
    names = missing.split()
    assert untrained_copies(names, shapes).issuperset(names) == copies


def test_a_target_network_that_an_optimizer_holds_is_a_note() -> None:
    def change(step: int, values: Any) -> None:
        for i in (0, 1):
            values["gradient/missing"][f"target.{i}.weight"] = 1.0

    known = meta()
    for i in (0, 1):
        like = known["parameters"][weight(i)]
        known["parameters"][f"target.{i}.weight"] = {**like, "layer": f"target.{i}"}
    (finding,) = MissingGradient()(story(change, about=known))
    assert finding.severity == "note"
    (cut_off,) = MissingGradient()(story(_none(0, 1)))
    assert cut_off.severity == "suspect"
