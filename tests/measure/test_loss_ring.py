"""Losses wait for the next look in one place (W10, P10, P19)."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_diag.measure import loss_ring
from lightning_diag.measure.loss_ring import LossRing

SLOTS = 5
STEPS = st.lists(st.lists(st.floats(-1e3, 1e3), max_size=3), max_size=14)


@pytest.fixture(params=["host", "device"], autouse=True)
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of keeping losses must tell the same."""
    if request.param == "device":
        monkeypatch.setattr(loss_ring, "is_on_host", lambda loss: False)


def taken(ring: LossRing) -> list[float | None]:
    """What the ring tells: a loss for each step that has one, the newest last."""
    columns = ring.take()
    if columns is None:
        return []
    losses, counts = columns.sums[0, :SLOTS].tolist(), columns.sums[0, SLOTS:].tolist()
    return [loss if count else None for loss, count in zip(losses, counts, strict=True)]


def fill(ring: LossRing, steps: Sequence[Sequence[float]]) -> None:
    for micro in steps:
        for loss in micro:
            ring.add(torch.tensor(loss, dtype=torch.float64))
        ring.end_step()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rounds=st.lists(STEPS, max_size=4))
def test_it_tells_what_a_list_of_lists_would(rounds: list[list[list[float]]]) -> None:
    ring = LossRing(SLOTS)
    for steps in rounds:
        kept: deque[list[float]] = deque(steps, maxlen=SLOTS)
        means = [math.fsum(micro) / len(micro) if micro else None for micro in kept]
        expected = [*[None] * (SLOTS - len(means)), *means] if any(kept) else []
        fill(ring, steps)
        assert taken(ring) == [None if x is None else pytest.approx(x) for x in expected]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_its_step_and_in_no_other(bad: float) -> None:
    """P13: also when its place in memory is used again."""
    ring = LossRing(SLOTS)
    fill(ring, [[1.0], [bad, 1.0]])
    assert str(taken(ring)[-2:]) == str([1.0, bad])
    fill(ring, [[], [2.0]] * SLOTS)
    assert taken(ring) == [2.0, None, 2.0, None, 2.0]


def test_a_loss_of_several_elements_counts_with_its_mean() -> None:
    ring = LossRing(SLOTS)
    ring.add(torch.tensor([1.0, 2.0, 6.0], dtype=torch.bfloat16))
    ring.end_step()
    assert taken(ring)[-1] == 3.0


def test_losses_may_come_from_another_device_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = LossRing(SLOTS)
    for on_host in (True, True, False, True):
        monkeypatch.setattr(loss_ring, "is_on_host", lambda loss, on_host=on_host: on_host)
        ring.add(torch.tensor(3.0))
        ring.add(torch.tensor(5.0))
        ring.end_step()
    assert taken(ring) == [None, 4.0, 4.0, 4.0, 4.0]


def test_no_tensor_of_a_step_is_kept() -> None:
    """P19: one for each step made the heap grow, and the steps slower."""
    ring = LossRing(SLOTS)
    fill(ring, [[1.0]])
    for values in (2.0, [2.0, 3.0]):
        loss = torch.tensor(values)
        storage = weakref.ref(loss.untyped_storage())
        seen = weakref.ref(loss)
        ring.add(loss)
        ring.end_step()
        del loss
        assert (seen(), storage()) == (None, None)
