"""Counts of classes, and the weights that follow from them (H6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from lightning_diag import class_balanced_weights, class_counts, class_weights, focal_loss

COUNTS = st.lists(st.integers(0, 10**7), min_size=1, max_size=12).filter(any)


class Pictures(Dataset[Any]):
    """Reads samples, and says which."""

    def __init__(self, labels: Any, kept: str = "") -> None:
        self._labels = labels
        self.read: list[int] = []
        if kept:
            setattr(self, kept, labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> Any:
        self.read.append(i)
        return torch.zeros(2), self._labels[i]


LABELS = [2, 0, 2, 2, 5]


@pytest.mark.parametrize(
    "source",
    [
        LABELS, np.array(LABELS), torch.tensor(LABELS), torch.tensor(LABELS, dtype=torch.uint8),
        TensorDataset(torch.zeros(5, 2), torch.tensor(LABELS)), Pictures(LABELS),
        Pictures(LABELS, "targets"), Pictures(np.array(LABELS), "labels"),
        Pictures([torch.tensor(label) for label in LABELS], "targets"),
        ConcatDataset([Pictures(LABELS[:2]), Pictures(LABELS[2:], "targets")]),
        Subset(Pictures([9, *LABELS, 9], "targets"), [5, 4, 3, 2, 1]),
        Subset(Pictures([9, *LABELS, 9]), [5, 4, 3, 2, 1]),
        Subset(ConcatDataset([Pictures([9]), Pictures(LABELS)]), range(1, 6)),
        Subset(Subset(Pictures([9, *LABELS], "targets"), range(1, 6)), range(5)),
        DataLoader(Pictures(LABELS), batch_size=2, shuffle=True),
    ],
)  # fmt: skip
def test_classes_are_counted_wherever_labels_are(source: Any) -> None:
    assert class_counts(source).tolist() == [1, 0, 3, 0, 0, 1]
    assert class_counts(source, 8).tolist() == [1, 0, 3, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("kept", ["targets", "labels"])
def test_no_sample_is_read_where_targets_are_kept(kept: str) -> None:
    data = Pictures(LABELS, kept)
    class_counts(ConcatDataset([data, Subset(data, [0, 1])]))
    assert data.read == []
    plain = Pictures(LABELS)
    class_counts(plain)
    assert plain.read == [0, 1, 2, 3, 4]


def test_targets_are_counted_as_samples_have_them() -> None:
    """As torchvision's data sets do, which keep them as they were before `target_transform`."""
    data: Any = Pictures(LABELS, "targets")
    data.target_transform = lambda label: label // 2
    assert class_counts(data).tolist() == [1, 3, 1]
    data.target_transform = None
    data.targets = [0]  # of something else, since there are five samples
    assert class_counts(data).tolist() == [1, 0, 3, 0, 0, 1]


def test_targets_are_taken_as_one_says() -> None:
    class Named(Pictures):
        def __getitem__(self, i: int) -> Any:
            return {"x": 0, "label": self._labels[i]}

    data = Named(LABELS)
    assert class_counts(data, target=lambda sample: sample["label"]).tolist() == [1, 0, 3, 0, 0, 1]
    with pytest.raises(TypeError, match="say with `target` how to take it"):
        class_counts(data)


def test_pixels_are_counted_and_ignored_ones_are_not() -> None:
    masks = torch.tensor([[[0, 1], [1, 255]], [[1, 255], [1, 0]]])
    assert class_counts(masks, ignore_index=255).tolist() == [2, 4]
    pictures = TensorDataset(torch.zeros(2, 3, 2, 2), masks)
    assert class_counts(pictures, ignore_index=255).tolist() == [2, 4]
    assert class_counts(Pictures(masks), ignore_index=255).tolist() == [2, 4]


def test_several_classes_of_a_sample_are_counted_each() -> None:
    yes = torch.tensor([[1, 0, 1], [1, 0, 0]])
    assert class_counts(yes.bool()).tolist() == [2, 0, 1]
    assert class_counts(yes.float() / 2).tolist() == [1.0, 0.0, 0.5]
    assert class_counts(Pictures(yes.bool())).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([], {}, ValueError, "a target at least"),
        ([-100], {}, ValueError, "a target at least"),
        ([0, -1], {}, ValueError, "classes must be 0 or more, got -1"),
        ([0, 3], {"classes": 3}, ValueError, "must be at least 4, as the targets say, got 3"),
        ([0.0, 1.0], {}, ValueError, "classes as whole numbers"),
        (iter([0, 1]), {}, TypeError, "or a data set with a length, got list_iterator"),
        (Pictures(["cat"]), {}, TypeError, "a class from a sample, got str from sample 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(
    source: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        class_counts(source, **options)


def test_a_stream_cannot_be_counted() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.zeros(1), 0)])

    with pytest.raises(TypeError, match="a data set with a length, got Stream: give the labels"):
        class_counts(Stream())


# --- weights ---


def slow_effective(counts: Sequence[int], beta: float) -> list[float]:
    """Return weights by the sum 1 + b + b² + ..., whose value Cui et al. prove."""
    effective = [math.fsum(beta**i for i in range(n)) for n in counts]
    weights = [1 / each if each else 0.0 for each in effective]
    scale = sum(counts) / sum(w * n for w, n in zip(weights, counts, strict=True))
    return [w * scale for w in weights]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6).filter(any), st.floats(0, 1))
def test_effective_numbers_are_a_sum_of_powers(counts: list[int], beta: float) -> None:
    found = class_balanced_weights(counts, beta=beta).tolist()
    assert found == pytest.approx(slow_effective(counts, beta), rel=1e-4)


def test_balanced_weights_are_those_of_the_paper() -> None:
    """(1 - b) / (1 - b^n), scaled to add up to the number of classes."""
    counts, beta = torch.tensor([5000, 500, 50]), 0.999
    paper = (1 - beta) / (1 - beta ** counts.double())
    paper = paper / paper.sum() * 3
    found = class_balanced_weights(counts, beta=beta, scale="classes")
    torch.testing.assert_close(found, paper.float())


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_weights_keep_the_size_of_the_loss(counts: list[int], power: float) -> None:
    for weights in (class_weights(counts, power=power), class_balanced_weights(counts)):
        n = torch.tensor(counts).double()
        assert weights.isfinite().all()
        assert ((weights > 0) == (n > 0)).all()
        assert float((weights * n).sum() / n.sum()) == pytest.approx(1, rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_from_no_weights_to_the_inverse_of_the_frequency(counts: list[int]) -> None:
    used = torch.tensor(counts) > 0
    for none in (class_balanced_weights(counts, beta=0), class_weights(counts, power=0)):
        assert none[used].tolist() == pytest.approx([1.0] * int(used.sum()))
    full = class_weights(counts)
    torch.testing.assert_close(class_balanced_weights(counts, beta=1), full)
    shares = full.double() * torch.tensor(counts)
    assert shares[used].tolist() == pytest.approx([float(shares.max())] * int(used.sum()), rel=1e-5)


def test_each_class_then_has_the_same_say() -> None:
    """Also where nothing divides by the sum of the weights: alpha, or the sum."""
    y = torch.tensor([0] * 90 + [1] * 9 + [2])
    weight = class_weights(class_counts(y))
    losses = torch.ones(100) * weight[y]
    assert [float(losses[y == k].sum()) for k in range(3)] == pytest.approx([100 / 3] * 3, rel=1e-5)
    x = torch.zeros(100, 3)
    plain = functional.cross_entropy(x, y)
    for loss in (
        functional.cross_entropy(x, y, weight), focal_loss(x, y, gamma=0, alpha=weight)
    ):  # fmt: skip
        torch.testing.assert_close(loss, plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: class_weights([1, 2], power=-1), "`power` must be 0 or more"),
        (lambda: class_balanced_weights([1, 2], beta=1.1), "`beta` must be from 0 to 1, got 1.1"),
        (lambda: class_balanced_weights([1], scale="mean"), "`scale` must be samples or classes"),  # type: ignore[arg-type]
        (lambda: class_weights([1, -2]), "a number of 0 or more for each class"),
        (lambda: class_weights([1, math.nan]), "a number of 0 or more for each class"),
        (lambda: class_weights([[1, 2]]), "a number of 0 or more for each class"),
        (lambda: class_weights([0, 0]), "a class with samples"),
    ],
)
def test_what_makes_no_weights_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_are_left_as_they_are() -> None:
    labels: Tensor = torch.tensor(LABELS)
    version = labels._version
    state = torch.get_rng_state()
    class_weights(class_counts(labels))
    assert labels._version == version
    assert torch.equal(torch.get_rng_state(), state)
