"""Samples are taken out of batches of any form, and refused where they cannot be told apart."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from lightning_diag.hard.rows import RowsError, are_rows, samples_of, take_rows

CHOSEN = torch.tensor([0, 2, 3])
X, Y = torch.arange(8.0).reshape(4, 2), torch.tensor([3, 2, 1, 0])
IMAGES = [torch.full((3, size, size), float(size)) for size in (5, 6, 7, 8)]


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    scale: float


def plain(node: Any) -> Any:
    """Return a batch as plain values, which can be compared."""
    if isinstance(node, (Tensor, np.ndarray)):
        return node.tolist()
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, Frozen):
        return Frozen(plain(node.x), node.scale)
    if isinstance(node, (list, tuple)):
        return [plain(value) for value in node]
    return node


FORMS: dict[str, tuple[Any, Any]] = {
    "tensor": (X, X[CHOSEN]),
    "list": ([X, Y], [X[CHOSEN], Y[CHOSEN]]),
    "tuple": ((X, Y), (X[CHOSEN], Y[CHOSEN])),
    "named tuple": (Pair(X, Y), Pair(X[CHOSEN], Y[CHOSEN])),
    "mapping": (OrderedDict(x=X, n=4), OrderedDict(x=X[CHOSEN], n=4)),
    "dataclass": (Frozen(X, 2.0), Frozen(X[CHOSEN], 2.0)),
    "nested": (
        {"in": {"a": X, "b": [Y, Y + 1]}, "out": (Y, None)},
        {"in": {"a": X[CHOSEN], "b": [Y[CHOSEN], Y[CHOSEN] + 1]}, "out": (Y[CHOSEN], None)},
    ),
    "texts": ([X, ("a", "b", "c", "d")], [X[CHOSEN], ("a", "c", "d")]),
    "array": ({"x": X, "w": np.arange(4)}, {"x": X[CHOSEN], "w": np.array([0, 2, 3])}),
    "samples of any size": (
        (IMAGES, [{"box": X[:i]} for i in range(4)]),
        ([IMAGES[i] for i in CHOSEN], [{"box": X[:i]} for i in (0, 2, 3)]),
    ),
    "list of samples": (
        [(image, i) for i, image in enumerate(IMAGES)],
        [(IMAGES[i], i) for i in (0, 2, 3)],
    ),
    "constants": ({"x": X, "temperature": torch.tensor(2.0)}, {"x": X[CHOSEN], "temperature": 2.0}),
}


@pytest.mark.parametrize("form", FORMS)
def test_samples_are_taken_from_a_batch_of_any_form(form: str) -> None:
    batch, expected = FORMS[form]
    before = plain(copy.deepcopy(batch))
    taken = take_rows(batch, CHOSEN, 4)
    assert type(taken) is type(batch)
    assert plain(taken) == plain(expected)
    assert plain(batch) == before
    assert are_rows(batch, 4) == ""


def test_as_many_fields_as_samples_are_fields() -> None:
    """The outermost list is what a loader has collated."""
    x, y = take_rows([X[:2], Y[:2]], torch.tensor([1]), 2)
    assert (x.tolist(), y.tolist()) == ([[2.0, 3.0]], [2])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([X, Y[:3]], r"`batch.1` of shape \(3,\) does not have the 4 samples first"),
        ({"x": X.T}, r"`batch.x` of shape \(2, 4\) does not have the 4 samples first"),
        ([pack_sequence(list(X)), Y], "`batch.0` is a PackedSequence, whose samples cannot"),
        ([object(), Y], "`batch.0` is a object, whose samples cannot be told apart"),
        ({"x": [X] * 4}, "`batch.x` may be a list of 4 samples, or of 4 things"),
        ([[X, Y, Y], Y[:2]], r"`batch.1` of shape \(2,\) does not"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(RowsError, match=message):
        take_rows(batch, CHOSEN, 4)
    assert are_rows(batch, 4)


def test_a_batch_without_tensors_has_no_samples() -> None:
    assert are_rows({"n": 4}, 4) == "it has no tensor"


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        ([X, Y], 4),
        ({"n": 2, "x": X}, 4),
        ((IMAGES, [{"box": X[:i]} for i in range(4)]), 4),
        ((IMAGES, IMAGES), 0),  # four of any size, or three channels of each
        ([X, Y[:3]], 0),
        (3.0, 0),
    ],
)
def test_the_samples_of_a_batch_are_counted(batch: Any, samples: int) -> None:
    assert samples_of(batch) == samples


NODES = st.recursive(
    st.sampled_from(["tensor", "numbers", "constant"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def build(shape: Any, rows: Tensor) -> Any:
    """Return a batch in which every sample carries its position."""
    if isinstance(shape, list):
        return [build(inner, rows) for inner in shape]
    if isinstance(shape, dict):
        return {key: build(inner, rows) for key, inner in shape.items()}
    kinds = {"tensor": rows[:, None] * torch.ones(2), "numbers": rows.tolist(), "constant": "text"}
    return kinds[shape]


@settings(max_examples=30)
@given(shape=NODES, chosen=st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True))
def test_all_parts_of_a_batch_keep_the_same_samples(shape: Any, chosen: list[int]) -> None:
    batch = {"rows": torch.arange(9), "rest": build(shape, torch.arange(9))}
    positions = torch.tensor(chosen)
    expected = {"rows": positions, "rest": build(shape, positions)}
    assert plain(take_rows(batch, positions, 9)) == plain(expected)
