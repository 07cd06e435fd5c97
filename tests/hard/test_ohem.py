"""`ohem_loss`: what is kept, what it is worth, and what gets a gradient (H2, H3, P28)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag import DiagWarning, ohem_loss

BINARY = "binary_cross_entropy_with_logits"


def logits(*shape: int, **options: Any) -> Tensor:
    return torch.randn(*shape, requires_grad=True, **options)


def has_gradient(x: Tensor, loss: Tensor) -> Tensor:
    """Return for which samples ``(N,)`` or pixels anything reaches the logits."""
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient.ne(0).any(1) if gradient.dim() > 1 else gradient.ne(0)


def test_a_quarter_of_the_samples_is_kept_and_the_others_get_no_gradient() -> None:
    x, target = logits(10, 4), torch.randint(0, 4, (10,))
    each = functional.cross_entropy(x, target, reduction="none")
    loss = ohem_loss(x, target)
    hardest = each.topk(3)
    assert loss.item() == pytest.approx(hardest.values.mean().item())
    assert has_gradient(x, loss).nonzero().flatten().tolist() == sorted(hardest.indices.tolist())


def test_the_gradient_of_what_is_kept_is_that_of_cross_entropy_on_it_alone() -> None:
    x, target = logits(8, 3), torch.randint(0, 3, (8,))
    best = functional.cross_entropy(x, target, reduction="none").topk(2).indices
    (mine,) = torch.autograd.grad(ohem_loss(x, target, keep=2), x)
    (theirs,) = torch.autograd.grad(functional.cross_entropy(x[best], target[best]), x)
    assert torch.allclose(mine, theirs)
    rest = torch.ones(8).bool()
    rest[best] = False
    assert not mine[rest].any()


CASES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "classes": lambda: (logits(6, 4), torch.randint(0, 4, (6,))),
    "pixels": lambda: (logits(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5))),
    "probabilities": lambda: (logits(6, 4), torch.rand(6, 4).softmax(1)),
}
YES_OR_NO: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "binary": lambda: (logits(7), torch.rand(7).round()),
    "multi-label": lambda: (logits(5, 4), torch.rand(5, 4).round()),
    "mask": lambda: (logits(2, 1, 3, 3), torch.rand(2, 1, 3, 3).round()),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_with_all_kept_it_is_cross_entropy(case: str, weighted: bool, reduction: Any) -> None:
    x, target = CASES[case]()
    weight = torch.rand(4) + 0.1 if weighted else None
    options: dict[str, Any] = {"weight": weight, "reduction": reduction}
    mine = ohem_loss(x, target, keep=1.0, **options)
    theirs = functional.cross_entropy(x, target, **options)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", YES_OR_NO)
def test_with_all_kept_it_is_binary_cross_entropy(
    case: str, weighted: bool, reduction: Any
) -> None:
    x, target = YES_OR_NO[case]()
    pos_weight = torch.tensor(3.0) if weighted else None
    options: dict[str, Any] = {"pos_weight": pos_weight, "reduction": reduction}
    mine = ohem_loss(x, target, loss=BINARY, keep=1.0, **options)
    theirs = functional.binary_cross_entropy_with_logits(x, target, **options)
    torch.testing.assert_close(mine, theirs)


def test_without_reduction_what_is_not_kept_is_zero() -> None:
    losses = torch.tensor([[0.5, 2.0], [1.0, 0.1]])
    assert ohem_loss(losses, keep=2, reduction="none").tolist() == [[0.0, 2.0], [1.0, 0.0]]
    assert ohem_loss(losses, keep=2, reduction="sum").item() == 3.0


def test_weights_say_how_much_a_sample_counts_and_not_how_hard_it_is() -> None:
    losses, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1])
    weight = torch.tensor([100.0, 0.5])
    loss = ohem_loss(losses, target, loss=None, keep=2, weight=weight)
    assert loss.item() == pytest.approx((0.5 * 2 + 0.5 * 3) / (0.5 + 0.5))


def test_classes_may_be_bytes() -> None:
    losses, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 255], dtype=torch.uint8)
    options: dict[str, Any] = {"weight": torch.tensor([1.0, 3.0]), "ignore_index": 255}
    mine = ohem_loss(losses, target, loss=None, keep=1.0, **options)
    assert mine.item() == pytest.approx((1 + 6) / 4)
    x = logits(3, 2)
    mine = ohem_loss(x, target, keep=1.0, **options)
    torch.testing.assert_close(mine, functional.cross_entropy(x, target.long(), **options))


def test_weights_may_be_lists() -> None:
    x, target = logits(8, 3), torch.randint(0, 3, (8,))
    weight = [1.0, 2.0, 0.5]
    assert ohem_loss(x, target, weight=weight) == ohem_loss(x, target, weight=torch.tensor(weight))


def test_a_class_without_weight_takes_no_place() -> None:
    losses, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1])
    weight = torch.tensor([1.0, 0.0])
    assert ohem_loss(losses, target, loss=None, keep=1, weight=weight).item() == 2.0


@pytest.mark.parametrize(("keep", "kept"), [(0.07, 7), (1 / 3, 34), (0.001, 1), (1, 1), (500, 100)])
def test_shares_are_rounded_up_and_counts_end_at_what_there_is(keep: float, kept: int) -> None:
    """P28: `k` is never out of range."""
    assert ohem_loss(torch.rand(100) + 1, keep=keep, reduction="none").count_nonzero() == kept


def test_a_share_is_that_of_what_counts() -> None:
    losses, target = torch.arange(1.0, 11.0), torch.tensor([0] * 4 + [-100] * 6)
    loss = ohem_loss(losses, target, loss=None, keep=0.5)
    assert loss.item() == 3.5


def test_losses_above_a_threshold_are_kept_and_at_least_so_many() -> None:
    """P28: `min_kept` counts elements of the batch."""
    losses = torch.tensor([0.1, 0.4, 0.5, 3.0])
    assert ohem_loss(losses, threshold=0.4, reduction="none").tolist() == pytest.approx(
        [0.0, 0.0, 0.5, 3.0]
    )
    assert ohem_loss(losses, threshold=0.4, min_kept=3, reduction="none").count_nonzero() == 3
    assert ohem_loss(losses, threshold=9.0, reduction="none").tolist() == [0.0, 0.0, 0.0, 3.0]
    assert ohem_loss(losses, threshold=9.0, min_kept=0).item() == 0.0


def test_the_first_of_equal_losses_are_kept() -> None:
    losses = torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0])
    for keep, expected in ((1, [1]), (2, [1, 4]), (3, [0, 1, 4]), (4, [0, 1, 2, 4])):
        found = ohem_loss(losses, keep=keep, reduction="none").nonzero().flatten()
        assert found.tolist() == expected


def test_all_positives_are_kept_and_three_negatives_for_each() -> None:
    """H3: three negatives per positive."""
    losses = torch.tensor([5.0, 0.1, 1.0, 2.0, 3.0, 4.0])
    target = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    found = ohem_loss(losses, target, loss=None, ratio=3, reduction="none")
    assert found.tolist() == pytest.approx([5.0, 0.1, 0.0, 0.0, 3.0, 4.0])
    nothing = ohem_loss(losses, torch.zeros(6), loss=None, ratio=3, reduction="none")
    assert not nothing.any()
    some = ohem_loss(losses, torch.zeros(6), loss=None, ratio=3, min_kept=2, reduction="none")
    assert some.count_nonzero() == 2


def test_each_class_is_kept_in_proportion_to_the_rarest() -> None:
    """H3 for more than two classes."""
    losses = torch.arange(1.0, 10.0)
    target = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2])
    found = ohem_loss(losses, target, loss=None, ratio=2, reduction="none")
    assert found.tolist() == [0.0, 0.0, 0.0, 4.0, 5.0, 0.0, 7.0, 8.0, 9.0]


def test_named_classes_are_kept_in_proportion_to_all_others() -> None:
    losses = torch.arange(1.0, 8.0)
    target = torch.tensor([0, 0, 0, 1, 2, 2, 0])
    found = ohem_loss(losses, target, loss=None, ratio={0: 0.5, 1: 9.0}, reduction="none")
    assert found.tolist() == [0.0, 0.0, 0.0, 4.0, 5.0, 6.0, 7.0]


def test_the_highest_losses_can_be_left_out() -> None:
    losses = torch.arange(1.0, 11.0)
    found = ohem_loss(losses, keep=0.3, skip_top=0.2, reduction="none")
    assert found.nonzero().flatten().tolist() == [5, 6, 7]
    target = torch.tensor([0] * 5 + [1] * 5)
    found = ohem_loss(losses, target, loss=None, ratio=1, skip_top=0.2, reduction="none")
    assert found.nonzero().flatten().tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_batch_that_is_all_ignored_gives_zero_with_a_graph() -> None:
    """P28: ranks must go backward together."""
    x = logits(3, 4, 2)
    for options in ({}, {"ratio": 3}, {"threshold": 0.1}, {"weight": torch.ones(4)}):
        loss = ohem_loss(x, torch.full((3, 2), -100), **options)
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, x)
        assert not gradient.any()


def test_an_empty_batch_gives_zero_with_a_graph() -> None:
    x = logits(0, 4)
    for ratio in (None, 3):
        loss = ohem_loss(x, torch.zeros(0).long(), ratio=ratio)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, x)[0].shape == (0, 4)


def test_ignored_targets_do_not_count() -> None:
    x, target = logits(6, 4), torch.tensor([0, 255, 1, 255, 2, 3])
    loss = ohem_loss(x, target, keep=1.0, ignore_index=255)
    theirs = functional.cross_entropy(x, target, ignore_index=255)
    torch.testing.assert_close(loss, theirs)


def test_labels_that_are_not_known_can_be_ignored() -> None:
    x, target = logits(2, 3), torch.tensor([[1.0, -1.0, 0.0], [-1.0, 0.0, 1.0]])
    loss = ohem_loss(x, target, loss=BINARY, keep=1.0, ignore_index=-1)
    known = target >= 0
    theirs = functional.binary_cross_entropy_with_logits(x[known], target[known])
    torch.testing.assert_close(loss, theirs)
    assert torch.autograd.grad(loss, x)[0].ne(0).equal(known)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("case", [*CASES, *YES_OR_NO])
def test_what_is_not_finite_is_left_out_and_reported(case: str, value: float) -> None:
    x, target = {**CASES, **YES_OR_NO}[case]()
    with torch.no_grad():
        x[1] = value
    loss_name = BINARY if case in YES_OR_NO else "cross_entropy"
    with pytest.warns(DiagWarning, match=r"The loss of \d+ elements? was not finite"):
        loss = ohem_loss(x, target, loss=loss_name, keep=1.0)
    rest = [i for i in range(len(x)) if i != 1]
    alone = ohem_loss(x[rest], target[rest], loss=loss_name, keep=1.0)
    torch.testing.assert_close(loss, alone)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all()
    assert not gradient[1].any()


def test_targets_that_are_not_numbers_are_left_out() -> None:
    x, target = logits(3), torch.tensor([1.0, math.nan, 0.0])
    with pytest.warns(DiagWarning, match="The loss of 1 element was"):
        loss = ohem_loss(x, target, loss=BINARY, keep=1.0)
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_classes_that_are_ruled_out_are_no_error() -> None:
    x = torch.tensor([[0.0, -math.inf, 1.0]], requires_grad=True)
    loss = ohem_loss(x, torch.tensor([0]))
    torch.testing.assert_close(loss, functional.cross_entropy(x, torch.tensor([0])))


def test_a_batch_in_which_nothing_is_finite_has_no_loss() -> None:
    """A network that broke down must not look like a perfect one."""
    x = torch.full((2, 3), math.nan, requires_grad=True)
    with pytest.warns(DiagWarning, match="2 elements"):
        assert ohem_loss(x, torch.tensor([0, 1])).isnan()
    with pytest.warns(DiagWarning, match="1 element"):
        assert ohem_loss(x, torch.tensor([0, -100])).isnan()


def test_own_losses_are_mined_too() -> None:
    x, target = logits(6, 4), torch.randint(0, 4, (6,))
    smooth = functools.partial(
        functional.cross_entropy, label_smoothing=0.1, reduction="none", ignore_index=-100
    )
    torch.testing.assert_close(
        ohem_loss(x, target, loss=smooth, keep=2), smooth(x, target).topk(2).values.mean()
    )
    target[0] = 255
    theirs = smooth(x[1:], target[1:]).mean()
    torch.testing.assert_close(
        ohem_loss(x, target, loss=smooth, keep=1.0, ignore_index=255), theirs
    )


def test_a_loss_of_a_sample_may_rest_on_many_numbers() -> None:
    x, target = logits(3, 5), torch.rand(3, 5)
    with torch.no_grad():
        x[0, 0] = math.nan

    def distance(x: Tensor, target: Tensor) -> Tensor:
        return (x - target).square().mean(1)

    with pytest.warns(DiagWarning, match="1 element "):
        loss = ohem_loss(x, target, loss=distance, keep=1.0)
    torch.testing.assert_close(loss, distance(x[1:], target[1:]).mean())
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_distances_are_mined_without_classes() -> None:
    x, target = logits(4, 2), torch.full((4, 2), -100.0)
    torch.testing.assert_close(
        ohem_loss(x, target, loss="mse_loss", keep=1.0), functional.mse_loss(x, target)
    )
    with pytest.raises(ValueError, match="`ratio` needs to know the class"):
        ohem_loss(x, target, loss="mse_loss", ratio=3)


@pytest.mark.parametrize("options", [{}, {"ratio": 2}, {"keep": 1}, {"skip_top": 0.2}])
def test_gradients_are_those_of_the_function(options: dict[str, Any]) -> None:
    x = logits(5, 3, dtype=torch.float64)
    target, weight = torch.tensor([0, 1, 2, -100, 0]), torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ohem_loss(x, target, weight=weight, **options), x)


def test_binary_gradients_are_those_of_the_function() -> None:
    x, target = logits(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64).round()
    assert torch.autograd.gradcheck(lambda x: ohem_loss(x, target, loss=BINARY, ratio=1), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_logits_of_16_bits_give_finite_losses(dtype: torch.dtype, scale: float) -> None:
    weight = torch.randn(8, 4, requires_grad=True)
    x, target = torch.randn(16, 8), torch.randint(0, 4, (16,))
    with torch.autocast("cpu", dtype=dtype):
        y = (x @ weight).sign() * scale + (x @ weight)
        loss = ohem_loss(y, target)
    assert y.dtype == dtype
    assert loss.dtype == torch.float32
    expected = functional.cross_entropy(y.float(), target, reduction="none").topk(4).values.mean()
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.grad(loss, weight)[0].isfinite().all()


@pytest.mark.parametrize("loss", ["cross_entropy", BINARY])
def test_logits_of_16_bits_without_autocast_are_told_apart_as_in_32(loss: str) -> None:
    """Their losses would have three digits, and many of them would be equal."""
    x = logits(64, 4).bfloat16()
    target = torch.randint(0, 4, (64,)) if loss == "cross_entropy" else torch.rand(64, 4).round()
    mine = ohem_loss(x, target, loss=loss, reduction="none")
    assert mine.dtype == torch.float32
    assert mine.equal(ohem_loss(x.float(), target, loss=loss, reduction="none"))


def test_nothing_is_changed_in_place() -> None:
    x, target = logits(6, 4), torch.randint(0, 4, (6,))
    losses = functional.cross_entropy(x, target, reduction="none")
    versions = [each._version for each in (x, target, losses)]
    weight = torch.ones(4)
    ohem_loss(losses, target, loss=None, ratio=2, weight=weight).backward()
    ohem_loss(x, target, keep=2, skip_top=0.5).backward()
    assert [each._version for each in (x, target, losses)] == versions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, "`keep` must be a share"),
        ({"keep": 1.5}, "`keep` must be a share"),
        ({"keep": 0}, "`keep` must be a share"),
        ({"keep": True}, "`keep` must be a share"),
        ({"keep": 0.5, "ratio": 3}, "got `keep` and `ratio`"),
        ({"threshold": math.nan}, "`threshold` must be"),
        ({"threshold": 1.0, "min_kept": -1}, "`min_kept` must be"),
        ({"ratio": 0}, "`ratio` must be above 0"),
        ({"ratio": {}}, "`ratio` must be above 0"),
        ({"ratio": {"background": 3}}, "`ratio` must name classes by whole numbers"),
        ({"weight": torch.ones(3)}, "a number for each of 4 classes, got 3"),
        ({"skip_top": 1.0}, "`skip_top` must be"),
        ({"reduction": "avg"}, "`reduction` must be"),
        ({"loss": "hinge"}, "`loss` must be one of"),
        ({"loss": functional.cross_entropy}, "reduction='none'"),
        ({"loss": "mse_loss", "weight": torch.ones(4)}, "`weight` is by class"),
        ({"pos_weight": torch.ones(4)}, "`pos_weight` is for"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(options: Any, message: str) -> None:
    x, target = logits(6, 4), torch.randint(0, 4, (6,))
    with pytest.raises(ValueError, match=message):
        ohem_loss(x, target, **options)


@pytest.mark.parametrize("loss", [BINARY, "mse_loss"])
@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_single_answers_of_another_shape_are_refused(loss: str, shape: tuple[int, ...]) -> None:
    """One column of logits and a vector of answers are no rows of classes."""
    message = rf"shape of the prediction with loss='{loss}', got \(6, 1\) and"
    with pytest.raises(ValueError, match=message):
        ohem_loss(logits(6, 1), torch.zeros(shape), loss=loss)


def test_a_prediction_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="add the dimension of the batch"):
        ohem_loss(torch.rand(4), torch.tensor(1))


COMPILED: list[tuple[str, dict[str, Any]]] = [
    (backend, options)
    for backend in ("eager", "aot_eager")
    for options in ({}, {"ratio": 2}, {"ratio": {0: 2}, "skip_top": 0.1}, {"threshold": 1.0})
]


@pytest.mark.parametrize(
    ("backend", "options"),
    [COMPILED[1], *(pytest.param(*each, marks=pytest.mark.slow) for each in COMPILED)],
)
def test_it_compiles_into_one_graph_and_keeps_the_same(
    backend: str, options: dict[str, Any]
) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y: ohem_loss(x, y, **options), fullgraph=True, backend=backend
    )
    x, target = logits(12, 4), torch.randint(0, 4, (12,))
    mine, theirs = compiled(x, target), ohem_loss(x, target, **options)
    assert mine.equal(theirs)
    assert torch.autograd.grad(mine, x)[0].equal(torch.autograd.grad(theirs, x)[0])
    assert compiled(x, target.masked_fill(target == 1, -100)).isfinite()
