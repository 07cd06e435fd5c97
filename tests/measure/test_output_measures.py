"""Measures of loss calls against slow float64 references, and against torchmetrics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.base import Columns, LossCall
from lightning_diag.measure.classes import ClassMeasure, ClassPool, accuracy, counts
from lightning_diag.measure.losses import LossCallMeasure, rows_of, targets_of
from lightning_diag.measure.output import PredictionMeasure, broadcasts, description
from lightning_diag.measure.target import SpreadMeasure, TargetMeasure

close = pytest.approx


def call(function: str, x: Tensor, target: Tensor, **about: Any) -> LossCall:
    one = LossCall(f"{function}#0", function, "loss", 1, x, target=target, **about)
    one.output = torch.tensor(1.5)
    return one


def numbers(measure: LossCallMeasure, *calls: LossCall) -> dict[str, float]:
    """Return what a measure says of calls whose columns are joined."""
    found = [measure.observe(one) for one in calls]
    known = [columns for columns in found if columns is not None]
    if not known:
        return {}
    sums, maxima = joined(known)
    summary = measure.summarise([calls[0].place], sums, maxima)
    return {name: next(iter(values.values())) for name, values in summary.items() if values}


def joined(known: list[Columns]) -> tuple[Tensor, Tensor]:
    return (
        torch.stack([columns.sums for columns in known]).sum(0),
        torch.stack([columns.maxima for columns in known]).amax(0),
    )


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def halves(one: LossCall) -> list[LossCall]:
    """Return the same samples in two calls of unlike sizes."""
    cut = 3
    pairs = [(one.input[:cut], one.target[:cut]), (one.input[cut:], one.target[cut:])]
    return [call(one.function, x, y, ignore_index=one.ignore_index) for x, y in pairs]


CLASSES = torch.tensor([0, 1, 2, 3, 0, 0, 2, -100])
CALLS = [
    call("cross_entropy", seeded(8, 4) * 3 + 1, CLASSES, ignore_index=-100),
    call("mse_loss", seeded(8, 5) + 2, seeded(8, 5) * 2),
    call("binary_cross_entropy_with_logits", seeded(8, 3), (seeded(8, 3) > 0).float()),
]
MEASURES: list[type[LossCallMeasure]] = [PredictionMeasure, TargetMeasure, SpreadMeasure]


@pytest.mark.parametrize("one", CALLS, ids=lambda one: one.function)
@pytest.mark.parametrize("measure", MEASURES)
def test_columns_of_split_batches_pool(one: LossCall, measure: type[LossCallMeasure]) -> None:
    """P10: the same samples, the same numbers, however they are cut."""
    assert numbers(measure(), *halves(one)) == close(numbers(measure(), one), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("shape", [(6,), (50, 4), (3, 4, 5), (2, 3, 6, 7)])
def test_level_and_range_equal_the_reference(shape: tuple[int, ...]) -> None:
    x = seeded(*shape) * 2 + 5
    found = numbers(PredictionMeasure(), call("mse_loss", x, x))
    wide = x.double()
    assert found["mean"] == close(float(wide.mean()))
    assert found["std"] == close(float(wide.std(correction=0)))
    assert (found["min"], found["max"]) == close((float(wide.min()), float(wide.max())))
    assert found["loss"] == 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(40, 10), (4, 10, 6), (2, 10, 5, 5)])
def test_distributions_are_known_by_their_rows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    scores, target = seeded(*shape).to(dtype), torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    cases = {
        (0.0, 0.0): scores,
        (1.0, 0.0): scores.softmax(1),
        (0.0, 1.0): scores.log_softmax(1),
    }
    for expected, x in cases.items():
        found = numbers(PredictionMeasure(), call("cross_entropy", x, target))
        assert (found["probability_fraction"], found["log_probability_fraction"]) == expected


def test_a_softmax_over_the_wrong_dimension_is_no_distribution() -> None:
    x = seeded(6, 4)
    found = numbers(PredictionMeasure(), call("nll_loss", x.log_softmax(0), torch.zeros(6).long()))
    assert found["log_probability_fraction"] == 0


def test_elements_are_counted_where_there_are_no_rows() -> None:
    x = torch.tensor([[-0.5, 0.0], [1.0, 1.5]])
    found = numbers(PredictionMeasure(), call("mse_loss", x, x))
    assert found["probability_fraction"] == 0.5
    assert "log_probability_fraction" not in found


def reference_counts(predicted: Tensor, target: Tensor, classes: int) -> list[list[float]]:
    pairs = [(int(p), int(t)) for p, t in zip(predicted, target, strict=True) if t != -100]
    return [
        [float(sum(t == c for _, t in pairs)) for c in range(classes)],
        [float(sum(p == c for p, _ in pairs)) for c in range(classes)],
        [float(sum(p == t == c for p, t in pairs)) for c in range(classes)],
    ]


def class_columns(one: LossCall) -> Tensor:
    columns = ClassMeasure().observe(one)
    assert columns is not None
    return columns.sums


@pytest.mark.parametrize("shape", [(30, 7), (6, 7, 4), (3, 7, 4, 5)])
def test_classes_are_counted_like_the_reference(shape: tuple[int, ...]) -> None:
    x = seeded(*shape)
    target = torch.randint(0, 7, (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1))
    target.view(-1)[::9] = -100
    sums = class_columns(call("cross_entropy", x, target, ignore_index=-100))
    expected = reference_counts(x.argmax(1).flatten(), target.flatten(), 7)
    assert list(counts(sums).values()) == expected
    assert accuracy(sums) == close(sum(expected[2]) / sum(expected[0]))


def test_recall_by_class_is_that_of_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    x = seeded(200, 5)
    target = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(5))
    sums = class_columns(call("cross_entropy", x, target))
    found = counts(sums)
    recall = torch.tensor(found["class/correct_count"]) / torch.tensor(found["class/target_count"])
    expected = metrics.multiclass_recall(x, target, num_classes=5, average="none")
    torch.testing.assert_close(recall, expected)
    assert accuracy(sums) == close(
        float(metrics.multiclass_accuracy(x, target, num_classes=5, average="micro"))
    )
    matrix = metrics.multiclass_confusion_matrix(x, target, num_classes=5)
    assert found["class/predicted_count"] == matrix.sum(0).tolist()


def test_yes_or_no_is_counted_like_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    x, target = seeded(40, 3), (seeded(3, 40).t() > 0.5).float()
    sums = class_columns(call("binary_cross_entropy_with_logits", x, target))
    assert accuracy(sums) == close(float(metrics.binary_accuracy(x.sigmoid(), target.long())))
    positive = counts(sums)["class/correct_count"][1] / counts(sums)["class/target_count"][1]
    assert positive == close(float(metrics.binary_recall(x.sigmoid(), target.long())))


def test_soft_targets_have_no_classes() -> None:
    sums = class_columns(call("binary_cross_entropy", torch.rand(4, 3), torch.rand(4, 3)))
    assert accuracy(sums) is None
    assert counts(sums) == {}


def test_probabilities_as_targets_stand_for_their_largest() -> None:
    x, target = seeded(9, 4), seeded(4, 9).t().softmax(1)
    sums = class_columns(call("cross_entropy", x, target))
    expected = reference_counts(x.argmax(1), target.argmax(1), 4)
    assert list(counts(sums).values()) == expected


def test_an_ignored_class_is_left_out() -> None:
    x = functional.one_hot(torch.tensor([0, 0, 1, 2]), 3).float()
    sums = class_columns(call("cross_entropy", x, torch.tensor([0, 0, 1, 1]), ignore_index=0))
    assert counts(sums)["class/target_count"] == [0.0, 2.0, 0.0]
    assert accuracy(sums) == 0.5


def test_of_many_classes_only_accuracy_is_kept() -> None:
    x = seeded(5, 300)
    sums = class_columns(call("cross_entropy", x, x.argmax(1)))
    assert accuracy(sums) == 1.0
    assert counts(sums) == {}


@pytest.mark.parametrize("shape", [(100_000, 5), (8, 5, 128, 128), (3, 40_000)])
def test_rows_and_targets_are_picked_alike(shape: tuple[int, ...]) -> None:
    classes = shape[1]
    target = torch.arange(math.prod(shape) // classes).view(shape[0], *shape[2:]) % classes
    x = functional.one_hot(target, classes).movedim(-1, 1).float()
    rows, picked = rows_of(x), targets_of(target, x)
    assert len(rows) == len(picked)
    assert len(rows) * classes <= 2 * max(65_536, 64 * classes)
    assert torch.equal(rows.argmax(1), picked)


def test_targets_equal_the_reference() -> None:
    x, target = seeded(20, 3), seeded(3, 20).t() * 4 + 1
    target[0] = target[0].round()
    found = numbers(TargetMeasure(), call("mse_loss", x, target, activation="relu"))
    wide = target.double()
    assert found["mean"] == close(float(wide.mean()))
    assert found["std"] == close(float(wide.std(correction=0)))
    assert (found["min"], found["max"]) == close((float(wide.min()), float(wide.max())))
    assert found["integer_fraction"] == close(3 / 60)
    assert found["unreachable_fraction"] == close(float((wide < -0.01).double().mean()))
    error = (x.double() - wide).square().mean()
    assert found["unexplained_ratio"] == close(float(error / wide.var(correction=0)))


def test_what_does_not_vary_or_does_not_fit_leaves_nothing_unexplained() -> None:
    constant = numbers(TargetMeasure(), call("mse_loss", seeded(4), torch.full((4,), 7.0)))
    assert "unexplained_ratio" not in constant
    broadcast = numbers(TargetMeasure(), call("mse_loss", seeded(4, 1), seeded(4)))
    assert "unexplained_ratio" not in broadcast


def test_spread_is_that_between_samples() -> None:
    x = seeded(30, 6) + 10 * torch.arange(6)
    wide = x.double()
    expected = math.sqrt(float(wide.var(0, correction=0).mean() / wide.var(correction=0)))
    assert numbers(SpreadMeasure(), call("mse_loss", x, x)) == close(
        {"output": expected, "target": expected}
    )


def test_equal_predictions_spread_by_nothing() -> None:
    x = torch.tensor([0.1, 5.3, -2.0]).expand(16, 3)
    target = torch.zeros(16).long()
    assert numbers(SpreadMeasure(), call("cross_entropy", x, target)) == {"output": 0.0}


def test_one_sample_has_no_spread() -> None:
    assert numbers(SpreadMeasure(), call("mse_loss", seeded(1, 4), seeded(1, 4))) == {}


def test_what_a_call_is_comes_back() -> None:
    x, target = torch.zeros(8, 3, 2), torch.zeros(8, 2, dtype=torch.long)
    one = call(
        "cross_entropy", x, target, reduction="sum", weighted=True, ignore_index=-1,
        activation="softmax",
    )  # fmt: skip
    columns = PredictionMeasure().observe(one)
    assert columns is not None
    assert description(one.place, columns.maxima[0]) == {
        "function": "cross_entropy",
        "reduction": "sum",
        "classes": 3,
        "input_shape": [8, 3, 2],
        "target_shape": [8, 2],
        "target_dtype": "int64",
        "weighted": True,
        "ignore_index": -1,
        "activation": "softmax",
        "scale": 1.0,
        "broadcast": False,
    }


def test_a_column_and_a_row_are_a_broadcast() -> None:
    assert broadcasts(torch.zeros(4, 1), torch.zeros(4))
    assert not broadcasts(torch.zeros(1, 1), torch.zeros(1))
    assert not broadcasts(torch.zeros(4, 3), torch.zeros(()))
    assert not broadcasts(torch.zeros(4, 3), torch.zeros(5))


def test_old_looks_fade() -> None:
    pool = ClassPool()
    lists = {"class/target_count": [50.0, 2.0], "class/correct_count": [50.0, 0.0]}
    learned = {"class/target_count": [50.0, 2.0], "class/correct_count": [50.0, 2.0]}
    for _ in range(40):
        pool.add(lists)
    pooled = sum((15 / 16) ** i for i in range(40))
    imbalance = (50 * pooled + 1) / (2 * pooled + 1)
    assert pool.numbers() == close(
        {"class/imbalance": imbalance, "class/majority_share": 25 / 26, "class/rare_recall": 0.0}
    )
    for _ in range(80):
        pool.add(learned)
    assert pool.numbers()["class/rare_recall"] > 0.99


def test_classes_that_change_their_number_begin_anew() -> None:
    pool = ClassPool()
    for width in (2, 3):
        pool.add({"class/target_count": [1.0] * width, "class/correct_count": [0.0] * width})
    assert pool.numbers() == {"class/imbalance": 1.0, "class/majority_share": 1 / 3}
