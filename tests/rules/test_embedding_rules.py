"""`dead-embedding` and `embedding-collapse`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.dead_embedding import DeadEmbedding
from lightning_diag.rules.embedding_collapse import EmbeddingCollapse
from rules.setup_stories import TABLE, about_table, table
from rules.stories import STEPS, flat, story

TRIPLET = "criterion/triplet_margin_loss#0"


def test_rows_that_nothing_asks_for_are_counted() -> None:
    """H7: ids that were clipped."""
    (finding,) = DeadEmbedding()(story(table(touched=0.05, asked=0.03), about=about_table()))
    assert finding.severity == "suspect"
    assert finding.places == (TABLE,)
    assert finding.message == (
        "Of the 400 rows of `words.weight` only 5.0% ever got a gradient (threshold 25%), in 400 "
        "steps on 1,200 samples."
    )


@pytest.mark.parametrize(("share", "found"), [(0.25, 1), (0.26, 0)])
def test_the_threshold_decides(share: float, found: int) -> None:
    assert len(DeadEmbedding()(story(table(share, 0.1), about=about_table()))) == found


@pytest.mark.parametrize(("rows", "found"), [(600, 1), (601, 0)])
def test_rare_words_of_a_large_vocabulary_are_healthy(rows: int, found: int) -> None:
    """H7: there must be samples enough for each row."""
    assert len(DeadEmbedding()(story(table(0.05, 0.03), about=about_table(rows)))) == found


@pytest.mark.parametrize(("rows", "found"), [(16, 1), (15, 0)])
def test_small_tables_are_healthy(rows: int, found: int) -> None:
    assert len(DeadEmbedding()(story(table(0.1, 0.05), about=about_table(rows)))) == found


def test_positions_that_no_sequence_reaches_are_healthy() -> None:
    """Every batch uses the same rows."""
    assert DeadEmbedding()(story(table(touched=0.05, asked=0.05), about=about_table())) == []


def test_a_table_without_any_gradient_is_a_missing_gradient() -> None:
    """Another rule speaks of that."""
    assert DeadEmbedding()(story(table(touched=0.0, asked=0.0), about=about_table())) == []


def test_without_the_size_of_the_training_set_nothing_is_said() -> None:
    about = about_table()
    del about["train_samples"]
    verdict = DeadEmbedding().check(story(table(0.05, 0.03), about=about))
    assert verdict == NotObserved("dead-embedding", "the size of the training set is not known")


def test_rows_that_point_the_same_way_are_found() -> None:
    """H7."""
    change = table(cosine=lambda step: 0.02 if step < 100 else 0.99)
    (finding,) = EmbeddingCollapse()(story(change, about=about_table()))
    assert finding.severity == "suspect"
    assert finding.places == (TABLE,)
    assert finding.message == (
        "Two rows of `words.weight` have a cosine of 0.990 in the mean at the newest look "
        "(threshold 0.9)."
    )


def test_it_is_bad_if_the_loss_stands_still() -> None:
    (finding,) = EmbeddingCollapse()(story(table(cosine=0.99), about=about_table(), loss=flat))
    assert finding.severity == "bad"


@pytest.mark.parametrize(("cosine", "found"), [(0.9, 1), (0.89, 0), (0.7, 0)])
def test_vocabularies_that_lean_to_one_side_are_healthy(cosine: float, found: int) -> None:
    assert len(EmbeddingCollapse()(story(table(cosine=cosine), about=about_table()))) == found


def test_rows_that_went_apart_are_no_longer_spoken_of() -> None:
    change = table(cosine=lambda step: 0.99 if step < 20 else 0.5)
    assert EmbeddingCollapse()(story(change, about=about_table(), steps=STEPS[:3])) != []
    assert EmbeddingCollapse()(story(change, about=about_table())) == []


def _outputs(spread: float, function: str = "triplet_margin_loss", since: int = 100) -> Any:
    def change(step: int, values: Any) -> None:
        values["output/sample_spread"] = {TRIPLET: spread if step >= since else 0.9}

    about = about_table()
    about["losses"] = {TRIPLET: {"function": function}}
    return story(change, about=about)


def test_outputs_that_a_triplet_loss_pulls_to_one_point_are_found() -> None:
    """H7: hard negatives."""
    (finding,) = EmbeddingCollapse()(_outputs(0.001))
    assert finding.places == (TRIPLET,)
    assert "differs between samples by 0.10% of its deviation" in finding.message


@pytest.mark.parametrize(
    ("spread", "function"), [(0.02, "triplet_margin_loss"), (0.0, "cross_entropy")]
)
def test_other_outputs_are_not_spoken_of(spread: float, function: str) -> None:
    """What constant predictions of a classifier mean is another rule's."""
    assert EmbeddingCollapse()(_outputs(spread, function)) == []


@pytest.mark.parametrize(("newest", "found"), [(4, 1), (3, 0)])
def test_the_newest_outputs_must_agree(newest: int, found: int) -> None:
    assert len(EmbeddingCollapse()(_outputs(0.0, since=STEPS[-newest]))) == found


@pytest.mark.parametrize(("last", "found"), [(60, 1), (59, 0)])
def test_outputs_that_start_alike_have_time_to_go_apart(last: int, found: int) -> None:
    """Deep networks as torch draws them begin so, and learn."""

    def change(step: int, values: Any) -> None:
        values["output/sample_spread"] = {TRIPLET: 0.0}

    about = about_table()
    about["losses"] = {TRIPLET: {"function": "triplet_margin_loss"}}
    history = story(change, about=about, steps=[*range(0, last, 3), last])
    assert len(EmbeddingCollapse()(history)) == found


SPHERE = "criterion.distance/normalize#0"


def _directions(
    cosine: Callable[[int], float], steps: Sequence[int] = STEPS, **options: Any
) -> Any:
    def change(step: int, values: Any) -> None:
        values["output/mean_cosine"] = {SPHERE: cosine(step)}

    return story(change, about=about_table(), steps=steps, **options)


def narrowing(step: int) -> float:
    """Return what hard negatives did to embeddings of digits, more or less."""
    return 1 - 0.3 / (1 + step / 10)


def test_samples_that_come_to_point_the_same_way_are_found_whatever_compares_them() -> None:
    """H7: losses of other libraries are no calls of torch's, and normalise all the same."""
    (finding,) = EmbeddingCollapse()(_directions(narrowing))
    assert (finding.severity, finding.places) == ("suspect", (SPHERE,))
    value = narrowing(STEPS[-1])
    assert finding.message == (
        f"Samples at `{SPHERE}` all point the same way: two of them have a cosine of {value:.3f} "
        "in the mean (threshold 0.95, in each of 4 looks), and they do not go apart."
    )
    assert finding.evidence.value == value
    (finding,) = EmbeddingCollapse()(_directions(narrowing, loss=flat))
    assert finding.severity == "bad"


@pytest.mark.parametrize(
    "cosine",
    [
        lambda step: 0.94,  # below the threshold
        lambda step: 0.5 if step < STEPS[-3] else 0.99,  # three looks of four
        lambda step: 0.99,  # as they began, which deep networks do
        lambda step: 1 - 0.04 * (0.51 if step else 1),  # hardly narrower
        lambda step: 0.6 if step == 0 else 0.999 if step < STEPS[-2] else 0.99,  # go apart
    ],
)
def test_directions_that_start_alike_or_go_apart_are_healthy(cosine: Any) -> None:
    assert EmbeddingCollapse()(_directions(cosine)) == []


@pytest.mark.parametrize(("last", "found"), [(60, 1), (59, 0)])
def test_directions_have_time_too(last: int, found: int) -> None:
    history = _directions(lambda step: 0.99 if step else 0.5, [*range(0, last, 3), last])
    assert len(EmbeddingCollapse()(history)) == found


def test_no_embedding_is_not_judged() -> None:
    for rule in (DeadEmbedding(), EmbeddingCollapse()):
        assert isinstance(rule.check(story()), NotObserved)
