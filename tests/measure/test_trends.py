"""The course of samples against a slow reference, and what is said of them (W13)."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from lightning_diag.measure.trend_lists import lists
from lightning_diag.measure.trends import CAUTION, LEAST_LOOKS, Rows, Trends

Look = tuple[int, float, float, float, int, int]
"""Index, loss, margin, sure, given, predicted."""


def rows(looks: list[Look]) -> Rows:
    columns = list(zip(*looks, strict=True))
    kinds = (torch.int64, *[torch.float32] * 3, *[torch.int64] * 2)
    return Rows(*(torch.tensor(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))


def drawn(seed: int, samples: int = 7, batches: int = 30) -> list[list[Look]]:
    """Return batches that hold samples up to several times."""
    rng = random.Random(seed)
    return [
        [
            (
                rng.randrange(samples),
                rng.choice([rng.random(), -math.inf]),
                rng.uniform(-1, 1),
                0.5,
                i % 3,
                rng.randrange(3),
            )
            for i in range(rng.randrange(1, 6))
        ]
        for _ in range(batches)
    ]


@dataclass
class Known:
    """What is known of a sample, one look after the other."""

    margins: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    loss: float = 0.0


def reference(looks: list[Look]) -> dict[int, Known]:
    known: dict[int, Known] = {}
    for index, loss, margin, _, given, predicted in looks:
        if loss > -math.inf:
            one = known.setdefault(index, Known())
            one.margins.append(margin)
            one.right.append(given == predicted)
            one.loss = loss
    return known


def assert_equal(trends: Trends, known: dict[int, Known]) -> None:
    assert len(trends) == len(known)
    for index, one in known.items():
        course = trends.course(index)
        assert course["looks"] == len(one.margins)
        assert course["margin"] == pytest.approx(sum(one.margins) / len(one.margins), abs=1e-4)
        assert course["loss"] == pytest.approx(one.loss, rel=1e-5)
        lost = sum(a and not b for a, b in zip(one.right, one.right[1:], strict=False))
        assert course["forgotten"] == lost
        assert course["learnt"] == any(one.right)


@pytest.mark.parametrize("seed", range(4))
def test_a_course_is_that_of_a_slow_reference_however_batches_are_merged(seed: int) -> None:
    """Repeats within an epoch count one after the other; what does not count is left out."""
    batches = drawn(seed)
    trends = Trends()
    for i, batch in enumerate(batches):
        trends.add(rows(batch))
        if i % (1 + seed) == 0:
            trends.merge([trends.take()])
    trends.merge([trends.take(), None])
    assert_equal(trends, reference([look for batch in batches for look in batch]))


def test_ranks_that_share_the_samples_know_what_one_process_knows() -> None:
    batches = drawn(9)
    alone, ranks = Trends(), [Trends(), Trends()]
    for batch in batches:
        alone.add(rows(batch))
        alone.merge([alone.take()])
        half = len(batch) // 2
        for rank, part in zip(ranks, (batch[:half], batch[half:]), strict=True):
            if part:
                rank.add(rows(part))
        taken = [rank.take() for rank in ranks]
        for rank in ranks:
            rank.merge(taken)
    indices = range(7)
    assert [alone.course(i) for i in indices] == [ranks[0].course(i) for i in indices]
    assert [ranks[1].course(i) for i in indices] == [ranks[0].course(i) for i in indices]


def test_a_checkpoint_holds_all_of_it_also_what_is_not_merged_yet() -> None:
    """P25: and loads where only weights may."""
    batches = drawn(3)
    whole, half = Trends(), Trends()
    for batch in batches:
        whole.add(rows(batch))
    for batch in batches[:10]:
        half.add(rows(batch))
    half.merge([half.take()])
    for batch in batches[10:20]:
        half.add(rows(batch))
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = Trends()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for batch in batches[20:]:
        resumed.add(rows(batch))
    for trends in (whole, resumed):
        trends.merge([trends.take()])
    assert [whole.course(i) for i in range(7)] == [resumed.course(i) for i in range(7)]


def test_a_sample_takes_18_bytes() -> None:
    trends = Trends()
    trends.add(rows([(999, 1.0, 0.0, 0.5, 1, 1)]))
    trends.merge([trends.take()])
    held = [x for x in trends.state_dict().values() if isinstance(x, torch.Tensor)]
    assert sum(x.numel() * x.element_size() for x in held) == 18 * 1000
    assert len(trends) == 1


def course(*looks: list[tuple[float, int]], times: int = 1) -> Trends:
    """Return samples with class 1 of these margins and predictions."""
    trends = Trends()
    for turn in range(len(looks[0])):
        for _ in range(times):
            batch = [
                (i, 1.0 - one[turn][0], one[turn][0], 0.5 + i / 100, 1, one[turn][1])
                for i, one in enumerate(looks)
            ]
            trends.add(rows(batch))
    trends.merge([trends.take()])
    return trends


FINE, WRONG, HARD = [(0.8, 1)] * 4, [(-0.8, 2)] * 4, [(-0.1, 2)] * 4
FORGOT = [(0.5, 1), (-0.1, 2), (0.5, 1), (-0.1, 2)]


def test_each_list_names_those_who_belong_on_it() -> None:
    trends = course(FINE, WRONG, FINE, HARD, FORGOT)
    assert trends.threshold() == pytest.approx(-CAUTION * 0.2)  # of a median of 0.2
    trends = course(FINE, WRONG, FINE, HARD, FORGOT, FINE, FINE)
    assert trends.threshold() == pytest.approx(-CAUTION * 0.8)
    assert trends.suspicious() == [1]
    assert trends.never_learnt() == [1, 3]
    assert trends.forgotten() == [4]
    assert trends.mistakes() == [4, 3, 1]
    assert trends.worst()[:3] == [1, 3, 4]
    assert trends.worst_by_class(2) == [1, 3]


def test_nothing_is_said_before_a_network_has_learnt_or_after_too_few_looks() -> None:
    """Not observed is not the same as fine."""
    assert course(HARD, HARD, WRONG).threshold() is None
    assert course(HARD, HARD, WRONG).suspicious() == []
    few = course(*[one[: LEAST_LOOKS - 1] for one in (FINE, FINE, WRONG)])
    assert (few.threshold(), few.suspicious(), few.never_learnt()) == (None, [], [])
    assert (Trends().worst(), Trends().suspicious()) == ([], [])


def test_who_is_forgotten_most_often_comes_first_and_counts_stay_in_range() -> None:
    often = [(0.5, 1), (-0.5, 2)] * 258
    once = [(0.5, 1)] * 515 + [(-0.5, 2)]
    trends = course(once, often)
    assert trends.forgotten() == [1, 0]
    assert trends.course(1)["forgotten"] == 255


def test_a_loss_that_is_no_number_is_the_worst_and_of_no_class() -> None:
    trends = Trends()
    trends.add(rows([(0, 5.0, -0.5, 0.5, 1, 2), (1, math.nan, math.nan, math.nan, 1, 0)]))
    trends.merge([trends.take()])
    assert trends.worst() == [1, 0]
    assert trends.mistakes() == [0]
    assert trends.course(1)["target"] is None


def test_samples_without_a_class_are_ranked_by_loss_alone() -> None:
    trends = Trends()
    for _ in range(4):
        trends.add(rows([(i, float(i), 0.0, -1.0, -1, -1) for i in range(3)]))
    trends.merge([trends.take()])
    assert trends.worst() == [2, 1, 0]
    assert trends.course(2)["margin"] is None
    found = lists(trends, 2, lambda indices: {})
    assert list(found) == ["example/worst"]


def test_what_is_shown_is_read_once_for_all_lists_and_never_learnt_leaves_suspicious_out() -> None:
    """P32: by index, when it is shown."""
    asked: list[list[int]] = []

    def read(indices: list[int]) -> dict[int, dict[str, Any]]:
        asked.append(indices)
        return {i: {"text": f"sample {i}"} for i in indices}

    trends = course(FINE, WRONG, FINE, HARD, FORGOT, FINE, FINE)
    found = lists(trends, 1, read)
    assert len(asked) == 1
    assert sorted(asked[0]) == list(range(7))
    assert [one["index"] for one in found["example/never_learnt"]["examples"]] == [3]
    (only,) = found["example/suspicious"]["examples"]
    assert (only["index"], only["text"], only["target"], only["prediction"]) == (
        1,
        "sample 1",
        1,
        2,
    )
    assert found["example/suspicious"]["found"] == 1
    assert found["example/suspicious"]["threshold"] == pytest.approx(-CAUTION * 0.8)
    assert found["example/worst"]["samples"] == 7
