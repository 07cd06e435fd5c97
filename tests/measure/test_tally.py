"""The tally on one rank: micro-batches, layouts and what was not seen."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_diag.measure.base import Columns, HostColumns, placed, table
from lightning_diag.measure.tally import Joined, Tally

CPU = torch.device("cpu")


def columns(sums: list[list[float]], maxima: list[list[float]]) -> Columns:
    return Columns(
        torch.tensor(sums, dtype=torch.float64), torch.tensor(maxima, dtype=torch.float64)
    )


def joined(tally: Tally, **scalars: float) -> Joined:
    pending = tally.join(scalars)
    assert not pending.asynchronous
    return pending.wait()


def found(result: Joined) -> dict[tuple[str, tuple[str, ...]], tuple[list[float], list[float]]]:
    return {
        (key.measure, key.places): (
            values.sums.flatten().tolist(),
            values.maxima.flatten().tolist(),
        )
        for key, values in result.columns.items()
    }


def test_micro_batches_add_up_and_exceed() -> None:
    tally = Tally(1, CPU)
    for n in (1.0, 5.0, 3.0):
        tally.add("m", ("a", "b"), columns([[n, 1.0], [0.0, n]], [[-n], [n]]))
    assert found(joined(tally)) == {("m", ("a", "b")): ([9.0, 3.0, 0.0, 9.0], [-1.0, 5.0])}


def test_shapes_come_back_as_they_went_in() -> None:
    tally = Tally(1, CPU)
    tally.add("sums", ("a", "b", "c"), Columns(torch.ones(3, 2), torch.ones(3, 0)))
    tally.add("maxima", ("a",), Columns(torch.ones(1, 0), torch.ones(1, 4)))
    shapes = {
        key.measure: (values.sums.shape, values.maxima.shape)
        for key, values in joined(tally).columns.items()
    }
    assert shapes == {"sums": ((3, 2), (3, 0)), "maxima": ((1, 0), (1, 4))}


def test_each_join_begins_anew() -> None:
    tally = Tally(1, CPU)
    tally.add("m", ("a",), columns([[1.0]], [[]]))
    joined(tally)
    tally.add("m", ("b",), columns([[2.0]], [[]]))
    assert found(joined(tally)) == {("m", ("b",)): ([2.0], [])}


def test_layouts_may_change_from_step_to_step() -> None:
    tally = Tally(1, CPU)
    for step in range(6):
        place = f"branch{step % 2}"
        tally.add("m", (place,), columns([[float(step)]], [[]]))
        if step % 3 == 0:
            tally.add("other", ("x", "y"), columns([[], []], [[1.0], [2.0]]))
        result = found(joined(tally))
        assert result["m", (place,)] == ([float(step)], [])
        assert len(result) == 2 - bool(step % 3)


def test_the_same_place_may_come_in_two_shapes() -> None:
    """As a call whose number of units differs between micro-batches."""
    tally = Tally(1, CPU)
    tally.add("m", ("a",), columns([[1.0]], [[1.0, 2.0]]))
    tally.add("m", ("a",), columns([[1.0]], [[1.0, 2.0, 3.0]]))
    assert [len(values.maxima[0]) for values in joined(tally).columns.values()] == [2, 3]


def test_a_step_without_observations_can_be_joined() -> None:
    tally = Tally(1, CPU)
    result = joined(tally, plain=0.25, watched=0.5)
    assert result.columns == {}
    assert result.scalars == {"plain": 0.25, "watched": 0.5}
    assert joined(tally).scalars == {}


def test_dropped_observations_do_not_come_back() -> None:
    tally = Tally(1, CPU)
    tally.add("m", ("a",), columns([[1.0]], [[]]))
    tally.drop()
    assert joined(tally).columns == {}


def test_numbers_of_a_join_do_not_change_with_the_next_one() -> None:
    tally = Tally(1, CPU)
    tally.add("m", ("a",), columns([[1.0]], [[7.0]]))
    pending = tally.join({})
    tally.add("m", ("a",), columns([[100.0]], [[200.0]]))
    assert found(pending.wait()) == {("m", ("a",)): ([1.0], [7.0])}


def test_adding_does_not_change_what_was_added() -> None:
    first, second = columns([[1.0]], [[1.0]]), columns([[2.0]], [[2.0]])
    tally = Tally(1, CPU)
    tally.add("m", ("a",), first)
    tally.add("m", ("a",), second)
    joined(tally)
    assert (float(first.sums), float(second.maxima)) == (1.0, 2.0)


def test_columns_of_lower_precision_are_widened() -> None:
    tally = Tally(1, CPU)
    tally.add("m", ("a",), Columns(torch.ones(1, 1), torch.ones(1, 1)))
    (values,) = joined(tally).columns.values()
    assert values.sums.dtype is values.maxima.dtype is torch.float64


def test_bad_numbers_pass_through() -> None:
    tally = Tally(1, CPU)
    tally.add("m", ("a",), columns([[float("nan"), float("inf")]], [[float("inf")]]))
    (values,) = joined(tally).columns.values()
    assert str(values.sums.tolist()) == "[[nan, inf]]"
    assert values.maxima.tolist() == [[float("inf")]]


def test_one_rank_shares_with_itself() -> None:
    value = object()
    assert Tally(1, CPU).share(value) is value


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_users_defaults_change_nothing(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            tally = Tally(1, CPU)
            tally.add("m", ("a",), Columns.of(CPU, [(1 / 3, 70_000.0)], [(1e-9,)]))
            result = joined(tally, seconds=1 / 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found(result) == {("m", ("a",)): ([1 / 3, 70_000.0], [1e-9])}
    assert result.scalars == {"seconds": 1 / 3}


def test_rows_and_places() -> None:
    assert table([(1.0, torch.tensor(2.0))], CPU).tolist() == [[1.0, 2.0]]
    assert table([()], CPU).shape == (1, 0)
    assert placed(["a", "b"], torch.tensor([1.0, 2.0])) == {"a": 1.0, "b": 2.0}
    with pytest.raises(ValueError, match="zip"):
        placed(["a"], torch.tensor([1.0, 2.0]))


def test_floats_of_the_host_join_tensors_of_a_device() -> None:
    """A parameter without a gradient leaves floats, one with a gradient on a GPU tensors there."""
    host = HostColumns([[1.0, 2.0]], [[3.0]])
    tensors = Columns(torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0]]))
    for joined in (host.joined(tensors), tensors.joined(host), tensors.joined(tensors)):
        assert type(joined) is Columns
    assert (
        host.joined(tensors).sums.tolist() == tensors.joined(host).sums.tolist() == [[11.0, 22.0]]
    )
    assert host.joined(tensors).maxima.tolist() == tensors.joined(host).maxima.tolist() == [[3.0]]


@pytest.mark.parametrize("values", [(1.0, math.nan), (math.nan, 1.0), (-math.inf, 2.0)])
def test_floats_join_as_tensors_do(values: tuple[float, float]) -> None:
    one, two = (HostColumns([[value]], [[value]]) for value in values)
    expected = Columns(one.sums, one.maxima).joined(Columns(two.sums, two.maxima))
    torch.testing.assert_close(one.joined(two).sums, expected.sums, equal_nan=True)
    torch.testing.assert_close(one.joined(two).maxima, expected.maxima, equal_nan=True)
