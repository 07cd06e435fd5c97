"""The course of the loss, and what validation said, as the rules on fit read them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.history import History, Series
from lightning_diag.record import Record
from lightning_diag.rules.checks import is_ripe, metric_modes, read_checks, validation_metric
from lightning_diag.rules.course import Course, chance_level, make_course, read_course
from rules.fit_stories import LONG, classes, learning, noisy, validated
from rules.stories import lines, meta, run_of, story


def _course(history: History) -> Course:
    course = read_course(history)
    assert isinstance(course, Course)
    return course


def test_levels_are_medians_of_equal_stretches() -> None:
    course = make_course(Series(list(range(40)), [float(i) for i in range(40)]))
    assert course is not None
    assert [(x.first, x.last, x.middle) for x in course.levels] == [(0, 15, 7.5), (16, 31, 23.5)]
    assert (course.start, course.last, course.best.middle, course.won) == (0.0, 31, 7.5, 0.0)


def test_there_are_at_most_64_levels() -> None:
    course = make_course(Series(list(range(100_000)), [1.0] * 100_000))
    assert course is not None
    assert (len(course.levels), course.width) == (48, 2048)


def test_what_is_not_finite_is_left_out_and_a_lost_level_is_infinite() -> None:
    values = [1.0] * 16 + [math.nan] * 4 + [1.0] * 12 + [math.nan] * 16
    course = make_course(Series(list(range(48)), values))
    assert course is not None
    assert [level.middle for level in course.levels] == [1.0, 1.0, math.inf]


def test_a_course_that_grows_is_the_one_made_anew() -> None:
    """A rule asked after each record must say what one asked at the end says."""
    loss = noisy(learning, 0.2)
    records, history = lines(loss=loss, steps=LONG), History()
    history.update_meta(meta())
    for record in records:
        history.append(record)
        grown, new = read_course(history), make_course(history.series("loss/train"))
        assert grown == (new or "fewer than 16 losses are known")


def test_a_course_forgets_what_is_taken_again() -> None:
    history = run_of(lines(loss=lambda step: 1.0), meta())
    assert _course(history).now.middle == 1.0
    history.resume(200)
    history.append(Record(step=399, values={}, dense={"loss/train": [5.0] * 200}))
    assert _course(history).now.middle == 5.0


def test_a_longer_run_reads_no_more_at_each_record() -> None:
    """P19: only what came since is read."""

    class Counting(History):
        read = 0

        def series(self, metric: str, place: str = "") -> Series:
            found = super().series(metric, place)
            self.read += len(found.steps)
            return found

        def window(self, metric: str, n: int) -> list[tuple[int, dict[str, float]]]:
            found = super().window(metric, n)
            self.read += len(found)
            return found

    history, counts = Counting(), []
    for record in lines(loss=learning, steps=range(0, 40_000, 10)):
        history.append(Record(step=record.step, values={}, dense=record.dense))
        history.read = 0
        read_course(history)
        counts.append(history.read)
    assert sum(counts[2000:]) / 2000 < 60
    assert sum(counts[2000:]) < 4 * sum(counts[:2000])


@pytest.mark.parametrize(("fall", "noise", "flat"), [(0.0, 0.02, True), (0.2, 0.02, False)])
def test_flat_is_what_surely_has_not_fallen(fall: float, noise: float, flat: bool) -> None:
    loss = noisy(lambda step: 2.0 - fall * step / 400, noise)
    assert _course(story(loss=loss)).is_flat(0.5, 0.04) is flat


def test_what_is_too_noisy_is_not_flat() -> None:
    assert not _course(story(loss=noisy(lambda step: 2.0, 0.8))).is_flat(0.5, 0.04)


def test_validations_are_seen_beside_the_training_losses_before_them() -> None:
    history = validated({"val_loss": lambda step: 1.0}, loss=float)
    checks = read_checks(history, "validation/val_loss")
    assert checks[0] == (19, 1.0, 9.5)
    assert checks[1] == (39, 1.0, 29.5)
    assert len(checks) == 20


def test_validations_read_one_by_one_are_those_read_at_once() -> None:
    history = History()
    history.update_meta(meta())
    for record in lines(loss=learning):
        history.append(record)
        if record.step % 7 == 0:
            history.note(record.step, {"validation/val_loss": {"": learning(record.step)}})
            read_checks(history, "validation/val_loss")
    live = read_checks(history, "validation/val_loss")
    again = History()
    for record in history.records():
        again.append(record)
    for step, value in zip(*history.series("validation/val_loss"), strict=True):
        again.note(step, {"validation/val_loss": {"": value}})
    assert live == read_checks(again, "validation/val_loss")


def test_many_validations_become_64() -> None:
    checks = read_checks(validated({"val_loss": learning}, every=2), "validation/val_loss")
    assert len(checks) == 50
    assert checks[-1].step == 399


def test_metrics_are_those_with_a_good_end_that_are_no_loss() -> None:
    modes = {"val_loss": "min", "val_acc": "max", "val_kl": "min", "val_x": ""}
    history = validated({"val_loss": learning}, modes=modes)
    assert validation_metric(history) == "validation/val_loss"
    assert metric_modes(history) == {"validation/val_acc": "max"}
    assert validation_metric(story()) is None


def _chance(about: dict[str, Any], spread: float | None = None) -> float | None:
    def change(step: int, values: Any) -> None:
        if spread is not None:
            values["target/std"] = {"mse_loss#0": spread}

    history = story(change, about={**meta(), **about})
    return chance_level(history, _course(history))


def _loss(function: str, **known: Any) -> dict[str, Any]:
    return {"losses": {f"{function}#0": {"function": function, "reduction": "mean", **known}}}


def test_what_knowing_nothing_gives() -> None:
    """C1."""
    assert _chance(classes(10)) == pytest.approx(math.log(10))
    assert _chance(_loss("binary_cross_entropy_with_logits")) == pytest.approx(math.log(2))
    assert _chance(_loss("mse_loss"), spread=3.0) == pytest.approx(9.0)
    batches = _loss("mse_loss", input_shape=[16, 1])
    assert _chance(batches, spread=3.0) == pytest.approx(9.0 * 16 / 15)


def test_where_it_is_not_known() -> None:
    assert _chance({}) is None
    assert _chance(_loss("mse_loss")) is None
    assert _chance(_loss("cross_entropy", classes=10, weighted=True)) is None
    assert _chance(_loss("hinge_embedding_loss")) is None
    two = {"losses": {**classes(10)["losses"], **_loss("mse_loss")["losses"]}}
    assert _chance(two) is None
    part = {"step": 0, "output/loss": 1.0}
    assert _chance(_loss("cross_entropy", classes=10, first=part)) is None


def test_a_run_is_ripe_after_its_steps_and_two_validations() -> None:
    rare = validated({"val_loss": learning}, every=250)
    often = validated({"val_loss": learning}, every=150)
    assert not is_ripe(rare, _course(rare), 256)
    assert is_ripe(rare, _course(rare), 48)
    assert is_ripe(often, _course(often), 256)
    assert not is_ripe(often, _course(often), 500)
    assert is_ripe(story(), _course(story()), 256)
