"""Logit adjustment: as the paper has it, and better for rare classes (H6)."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lightning_diag import DiagWarning, LogitAdjustedLoss, adjust_logits, logit_adjusted_loss
from lightning_diag.hard.logit_adjustment import log_prior

ANY: Any = logit_adjusted_loss


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 1000), min_size=2, max_size=5),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.integers(0, 10**6),
)
def test_the_loss_is_that_of_the_paper(counts: list[int], tau: float, seed: int) -> None:
    """Equation 10: log of 1 plus the sum of (n_j / n_y)^tau times exp(f_j - f_y)."""
    torch.manual_seed(seed)
    x, y = torch.randn(1, len(counts), dtype=torch.float64), seed % len(counts)
    f = x[0].tolist()
    others = sum(
        (n / counts[y]) ** tau * math.exp(f[j] - f[y]) for j, n in enumerate(counts) if j != y
    )
    found = logit_adjusted_loss(x, torch.tensor([y]), counts, tau=tau)
    assert found.item() == pytest.approx(math.log(1 + others), rel=1e-5)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 5), (2, 3, 2, 2)])
def test_all_shapes_and_reductions_are_torchs(shape: tuple[int, ...]) -> None:
    x, dim = torch.randn(shape), min(1, len(shape) - 1)
    y = torch.randint(3, shape[:dim] + shape[dim + 1 :])
    moved = x + log_prior([90, 9, 1]).reshape(-1, *[1] * max(0, len(shape) - 2))
    for reduction in ("mean", "sum", "none"):
        found = ANY(x, y, [90, 9, 1], reduction=reduction, label_smoothing=0.1)
        expected = functional.cross_entropy(moved, y, reduction=reduction, label_smoothing=0.1)
        torch.testing.assert_close(found, expected)


def test_with_tau_0_it_is_cross_entropy() -> None:
    x, y = torch.randn(4, 3, requires_grad=True), torch.randint(3, (4,))
    loss = logit_adjusted_loss(x, y, [90, 9, 1], tau=0)
    assert loss == functional.cross_entropy(x, y)
    assert torch.equal(adjust_logits(x, [90, 9, 1], tau=0), x)


def test_a_loss_of_scores_that_are_adjusted_back_is_cross_entropy() -> None:
    x, y = torch.randn(4, 3, 2), torch.randint(3, (4, 2))
    back = logit_adjusted_loss(adjust_logits(x, [90, 9, 1]), y, [90, 9, 1])
    torch.testing.assert_close(back, functional.cross_entropy(x, y))


def test_a_class_without_samples_counts_as_one_and_does_not_win() -> None:
    assert log_prior([3, 0]).tolist() == pytest.approx([math.log(3 / 4), math.log(1 / 4)])
    moved = adjust_logits(torch.zeros(1, 3), [99, 1, 0])
    assert moved.isfinite().all()


def two_clouds(samples: int, share: float) -> tuple[Tensor, Tensor]:
    """Return points of two classes, of which the second is rare and overlaps with the first."""
    y = (torch.rand(samples) < share).long()
    return torch.randn(samples, 2) + 1.5 * y[:, None], y


def recalls(x: Tensor, y: Tensor) -> list[float]:
    return [float((x.argmax(1) == y)[y == k].float().mean()) for k in range(2)]


def test_rare_classes_are_found_by_either_way() -> None:
    x, y = two_clouds(3000, 0.02)
    test, truth = two_clouds(4000, 0.5)
    counts = torch.bincount(y)
    scores = {}
    for name in ("plain", "adjusted"):
        layer = torch.nn.Linear(2, 2)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=50)

        def closure(layer: Any = layer, name: str = name, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = ANY(layer(x), y, counts, tau=float(name == "adjusted"))
            loss.backward()
            return loss  # type: ignore[no-any-return]

        optimizer.step(closure)
        scores[name] = layer(test).detach()
    scores["after"] = adjust_logits(scores["plain"], counts)
    found = {name: recalls(x, truth) for name, x in scores.items()}
    assert found["plain"][1] < 0.3
    for name in ("adjusted", "after"):
        # of two such clouds 86 % can be told at best, which is where the normal curve is at 1.06
        assert sum(found[name]) / 2 == pytest.approx(0.856, abs=0.02)
        assert min(found[name]) > 0.8


def test_the_module_is_the_function() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 9])
    options: Any = {"tau": 0.7, "gamma": 1.0, "ignore_index": 9, "label_smoothing": 0.1}
    module = LogitAdjustedLoss([90, 9, 1], **options)
    assert module(x, y) == logit_adjusted_loss(x, y, [90, 9, 1], **options)
    assert pickle.loads(pickle.dumps(module))(x, y) == module(x, y)
    assert module.state_dict() == {}
    assert repr(module) == "LogitAdjustedLoss(classes=3, tau=0.7)"
    with pytest.warns(DiagWarning, match="`LogitAdjustedLoss` has left out 1 of its losses"):
        loss = module(x.index_fill(0, torch.tensor([0]), math.nan), y)
    torch.testing.assert_close(loss, module(x[1:], y[1:]))
    assert module(x, torch.full((4,), 9)) == 0


def test_the_function_compiles_into_one_graph() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 9])
    counts = torch.tensor([90, 0, 1])

    def loss(x: Tensor) -> Tensor:
        return logit_adjusted_loss(x, y, counts, ignore_index=9)

    compiled: Any = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), loss(x))


def test_sixteen_bits_are_computed_in_thirty_two() -> None:
    x, y = torch.full((2, 2), 6e4, dtype=torch.float16), torch.tensor([0, 1])
    x.requires_grad_()
    logit_adjusted_loss(x, y, [99, 1]).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert adjust_logits(x, [99, 1]).dtype == torch.float32


@pytest.mark.parametrize(
    ("counts", "tau", "message"),
    [
        ([1, 2, 3], -1.0, "`tau` must be 0 or more, and finite, got -1.0"),
        ([1, 2], 1.0, "a number for each of 3 classes, got 2"),
        ([0, 0, 0], 1.0, "a class with samples"),
    ],
)
def test_what_does_not_fit_is_refused(counts: Any, tau: float, message: str) -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2).long()
    for act in (
        lambda: adjust_logits(x, counts, tau=tau),
        lambda: logit_adjusted_loss(x, y, counts, tau=tau),
        lambda: LogitAdjustedLoss(counts, tau=tau)(x, y),
    ):
        with pytest.raises(ValueError, match=message):
            act()
