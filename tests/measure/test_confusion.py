"""Which classes are taken for which: against a slow reference, and against torchmetrics."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lightning_diag.measure.base import Columns, LossCall
from lightning_diag.measure.classes import ClassMeasure, accuracy, confusions, counts
from lightning_diag.measure.confusion import ConfusionPool, confusion, scattered


def drawn(classes: int, rows: int = 300) -> tuple[Tensor, Tensor]:
    """Return targets, some of them -100, and predictions."""
    generator = torch.Generator().manual_seed(classes)
    target, predicted = torch.randint(0, classes, (2, rows), generator=generator)
    target[::7] = -100
    return target, predicted


def reference(target: Tensor, predicted: Tensor, classes: int, ignored: int) -> list[list[int]]:
    pairs = [(t, p) for t, p in zip(target.tolist(), predicted.tolist(), strict=True)]
    kept = [pair for pair in pairs if pair[0] != ignored]
    return [[kept.count((t, p)) for p in range(classes)] for t in range(classes)]


def observed(target: Tensor, predicted: Tensor, classes: int, ignored: int = -100) -> Columns:
    x = torch.nn.functional.one_hot(predicted, classes).float()
    call = LossCall(
        "cross_entropy#0", "cross_entropy", "loss", 1, x, target=target, ignore_index=ignored
    )
    columns = ClassMeasure().observe(call)
    assert columns is not None
    return columns


@pytest.mark.parametrize("classes", [1, 2, 5, 64])
@pytest.mark.parametrize("ignored", [-100, 0, 255])
def test_the_matrix_equals_the_reference(classes: int, ignored: int) -> None:
    target, predicted = drawn(classes)
    target = target.where(target >= 0, ignored)
    expected = reference(target, predicted, classes, ignored)
    assert confusion(target, predicted, classes, ignored).tolist() == expected
    matrix = confusions(observed(target, predicted, classes, ignored).sums)
    assert matrix is not None
    assert matrix.tolist() == expected


def test_a_batch_that_is_ignored_as_a_whole_leaves_nothing() -> None:
    """P20: absent, not 0."""
    sums = observed(torch.full((4,), -100), torch.tensor([0, 1, 2, 0]), 3).sums
    assert accuracy(sums) is None
    assert counts(sums) == {}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_targets_of_few_bits_do_not_overflow(dtype: torch.dtype) -> None:
    target, predicted = torch.tensor([60, 63, 1]), torch.tensor([60, 2, 1])
    matrix = confusion(target.to(dtype), predicted, 64, -100)
    assert matrix.nonzero().tolist() == [[1, 1], [60, 60], [63, 2]]


@pytest.mark.parametrize(
    ("module", "is_loaded"), [("lightning_diag", False), ("pytorch_lightning", True)]
)
def test_torchmetrics_is_loaded_by_lightning_and_not_by_us(
    module: str, is_loaded: bool, run_python: Callable[..., str]
) -> None:
    code = f"""
import sys
for name in [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]:
    del sys.modules[name]
import {module}
print("torchmetrics.functional.classification" in sys.modules)
"""
    assert run_python(code, torch=True).strip() == str(is_loaded)


def test_a_device_that_must_not_be_waited_for_counts_the_same() -> None:
    target, predicted = drawn(7)
    target = target.clamp(min=0)
    expected = multiclass_confusion_matrix(predicted, target, num_classes=7)
    assert torch.equal(scattered(target, predicted, 7), expected.double())


def test_deterministic_algorithms_count_the_same() -> None:
    target, predicted = drawn(9)
    expected = confusion(target, predicted, 9, -100)
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert torch.equal(confusion(target, predicted, 9, -100), expected.double())
    finally:
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("classes", [64, 65, 75, 256])
def test_of_many_classes_the_counts_are_kept_without_the_matrix(classes: int) -> None:
    """75 classes have 225 counts, which are not the matrix of 15 classes."""
    target, predicted = drawn(classes, 250)
    sums = observed(target, predicted, classes).sums
    assert (confusions(sums) is not None) == (classes <= 64)
    matrix = torch.tensor(reference(target, predicted, classes, -100))
    expected = [matrix.sum(1), matrix.sum(0), matrix.diagonal()]
    assert list(counts(sums).values()) == [x.tolist() for x in expected]
    assert accuracy(sums) == pytest.approx(float(matrix.diagonal().sum() / matrix.sum()))


def test_matrices_of_micro_batches_and_ranks_add_up() -> None:
    """P10: the same samples, the same matrix, however they are cut."""
    target, predicted = drawn(6)
    one, two = (
        observed(t, p, 6)
        for t, p in zip(target.split([40, 260]), predicted.split([40, 260]), strict=True)
    )
    matrix = confusions(one.joined(two).sums)
    assert matrix is not None
    assert matrix.tolist() == reference(target, predicted, 6, -100)


def slow(looks: list[list[list[int]]]) -> list[float]:
    """Return the sixteen pairs of unlike classes that were confused most often."""
    size = len(looks[0])
    totals = {
        (t, p): sum(look[t][p] for look in looks)
        for t in range(size)
        for p in range(size)
        if t != p
    }
    order = sorted(totals, key=lambda pair: (-totals[pair], pair))
    return [float(number) for t, p in order[:16] if totals[t, p] for number in (t, p, totals[t, p])]


@pytest.mark.parametrize("size", [2, 5, 20])
def test_every_eight_looks_the_most_confused_pairs_are_told(size: int) -> None:
    rng, pool, told = random.Random(size), ConfusionPool(), []
    looks = [[[rng.randrange(4) for _ in range(size)] for _ in range(size)] for _ in range(20)]
    for look in looks:
        pool.add(torch.tensor(look, dtype=torch.float64))
        told.append(pool.told())
    expected = {7: slow(looks[:8]), 15: slow(looks[8:16])}
    assert told == [expected.get(i) for i in range(20)]
    assert all(len(pairs) <= 48 for pairs in told if pairs)


def test_nothing_confused_is_an_empty_list() -> None:
    pool = ConfusionPool()
    for _ in range(8):
        pool.add(torch.eye(3, dtype=torch.float64))
    assert pool.told() == []


def test_a_pool_goes_on_where_its_state_was_taken() -> None:
    pool, matrix = ConfusionPool(), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    for _ in range(7):
        pool.add(matrix)
    again = ConfusionPool.of(pool.state())
    again.add(matrix)
    assert again.told() == [1.0, 0.0, 24.0, 0.0, 1.0, 16.0]


def test_classes_that_change_their_number_begin_anew() -> None:
    pool = ConfusionPool()
    for size in (2,) * 7 + (3,) * 7:
        pool.add(torch.ones(size, size, dtype=torch.float64))
        assert pool.told() is None
