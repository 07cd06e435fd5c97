"""Focal loss against torch's losses and a slow reference, at its edges, as a module (H5, P29)."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import itertools
import math
import pickle
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hard import slow_focal
from lightning_diag import DiagWarning, FocalLoss, focal_loss

IGNORED = -100
ANY: Any = focal_loss
"""Without its types, to be called in ways that these forbid."""
PARTS = ("class_weights", "focal", "focal_terms", "logit_adjustment", "reduction")


def rows(x: Tensor) -> list[list[float]]:
    """Return the rows of ``(N, C, *)``."""
    return x.movedim(1, -1).flatten(0, -2).double().tolist()


OPTIONS: dict[str, Any] = {
    "gamma": st.sampled_from([0.0, 0.3, 1.0, 2.0, 5.0]),
    "shape": st.sampled_from([(3, 2), (4, 5), (1, 3), (2, 3, 4), (2, 4, 2, 3)]),
    "weighted": st.booleans(),
    "alpha": st.sampled_from(["none", "one", "each"]),
    "smoothing": st.sampled_from([0.0, 0.1, 1.0]),
    "reduction": st.sampled_from(["mean", "sum", "none"]),
    "seed": st.integers(0, 10**6),
}


@settings(max_examples=60, deadline=None)
@given(**OPTIONS, soft=st.booleans())
def test_softmax_losses_are_those_of_a_slow_reference(
    *, gamma: float, shape: tuple[int, ...], weighted: bool, alpha: str, smoothing: float,
    reduction: Any, seed: int, soft: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    classes = shape[1]
    x = 4 * torch.randn(shape, dtype=torch.float64)
    hard = torch.randint(classes, (shape[0], *shape[2:]))
    is_left_out = torch.rand(hard.shape) < 0.3
    target = hard.masked_fill(is_left_out, IGNORED)
    q = functional.one_hot(hard, classes).movedim(-1, 1).double()
    if soft:
        target = q = torch.randn(shape, dtype=torch.float64).softmax(1)
        is_left_out = torch.zeros_like(is_left_out)
    weight = torch.rand(classes, dtype=torch.float64) + 0.1 if weighted else None
    given_alpha: Any = {"none": None, "one": 0.25, "each": torch.rand(classes).double()}[alpha]
    found = focal_loss(
        x, target, gamma=gamma, weight=weight, alpha=given_alpha, label_smoothing=smoothing,
        reduction=reduction,
    )  # fmt: skip
    w = [1.0] * classes if weight is None else weight.tolist()
    a = {"none": [1.0] * classes, "one": [0.25] * classes}.get(alpha) or given_alpha.tolist()
    left_out = is_left_out.flatten().tolist()
    losses = [
        0.0 if out else slow_focal.of_row(row, each, gamma, weight=w, alpha=a, smoothing=smoothing)
        for row, each, out in zip(rows(x), rows(q), left_out, strict=True)
    ]
    shares = [
        0.0 if out else 1.0 if soft else w[label]
        for label, out in zip(hard.flatten().tolist(), left_out, strict=True)
    ]
    expected = {"mean": slow_focal.mean(losses, shares), "sum": sum(losses), "none": losses}
    assert found.flatten().tolist() == pytest.approx(
        expected[reduction] if reduction == "none" else [expected[reduction]], rel=1e-9, abs=1e-12
    )
    assert found.shape == (hard.shape if reduction == "none" else ())


@settings(max_examples=60, deadline=None)
@given(**OPTIONS, soft=st.booleans(), positive=st.booleans())
def test_sigmoid_losses_are_those_of_a_slow_reference(
    *, gamma: float, shape: tuple[int, ...], weighted: bool, alpha: str, smoothing: float,
    reduction: Any, seed: int, soft: bool, positive: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    x = 4 * torch.randn(shape, dtype=torch.float64)
    target = torch.rand(shape, dtype=torch.float64)
    target = target if soft else target.round()
    is_left_out = torch.rand(shape) < 0.3
    by_class = (1, shape[1], *[1] * (len(shape) - 2))
    weight = torch.rand(shape, dtype=torch.float64) if weighted else None
    pos_weight = torch.rand(by_class, dtype=torch.float64) + 0.5 if positive else None
    each: Any = torch.rand(shape[1], dtype=torch.float64)
    found = focal_loss(
        x, target.masked_fill(is_left_out, IGNORED), form="sigmoid", gamma=gamma, weight=weight,
        pos_weight=pos_weight, alpha={"none": None, "one": 0.25, "each": each}[alpha],
        label_smoothing=smoothing, reduction=reduction,
    )  # fmt: skip
    ones = torch.ones(shape, dtype=torch.float64)
    sides: Any = {"one": 0.25 * ones, "each": each.reshape(by_class) * ones}.get(alpha)
    losses = [
        0.0 if out else slow_focal.of_element(
            one, t, gamma, weight=w, pos_weight=p, alpha=None if alpha == "none" else s,
            smoothing=smoothing,
        )
        for one, t, w, p, s, out in zip(
            *(
                each.flatten().tolist()
                for each in (
                    x, target, ones if weight is None else weight,
                    ones if pos_weight is None else pos_weight * ones,
                    ones if sides is None else sides, is_left_out,
                )
            ),
            strict=True,
        )
    ]  # fmt: skip
    count = [float(not out) for out in is_left_out.flatten().tolist()]
    expected = {"mean": slow_focal.mean(losses, count), "sum": sum(losses), "none": losses}
    assert found.flatten().tolist() == pytest.approx(
        expected[reduction] if reduction == "none" else [expected[reduction]], rel=1e-9, abs=1e-12
    )


def graded(loss: Any, x: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Return a loss and its gradient."""
    x = x.detach().clone().requires_grad_()
    value = loss(x, *args, **options)
    value.backward(torch.ones_like(value))
    assert x.grad is not None
    return value.detach(), x.grad


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_with_gamma_0_it_is_cross_entropy_with_every_option(reduction: Any) -> None:
    """P29: to 1e-6, value and gradient."""
    x = 3 * torch.randn(6, 4, 5)
    classes = torch.randint(4, (6, 5))
    classes[0, :3] = 255
    soft = torch.randn(6, 4, 5).softmax(1)
    for target, weight, smoothing in itertools.product(
        (classes, soft), (None, torch.tensor([0.5, 1.0, 2.0, 7.0])), (0.0, 0.2)
    ):
        options: Any = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        options |= {"ignore_index": 255} if target is classes else {}
        ours = graded(focal_loss, x, target, gamma=0, **options)
        theirs = graded(functional.cross_entropy, x, target, **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_with_gamma_0_it_is_binary_cross_entropy_with_every_option(reduction: Any) -> None:
    x, target = 3 * torch.randn(6, 4), torch.rand(6, 4)
    for t, weight, positive in itertools.product(
        (target, target.round()), (None, torch.rand(6, 1)), (None, torch.tensor([1.0, 2, 3, 4]))
    ):
        options: Any = {"weight": weight, "pos_weight": positive, "reduction": reduction}
        ours = graded(focal_loss, x, t, form="sigmoid", gamma=0, **options)
        theirs = graded(functional.binary_cross_entropy_with_logits, x, t, **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_factor_is_as_worked_out_by_hand() -> None:
    """Of probabilities 3/4 and 1/4, the first is right: a quarter is at the wrong place."""
    x = torch.tensor([[3.0, 1.0]]).log()
    entropy = -math.log(3 / 4)
    for gamma in (0.5, 1, 2, 5):
        loss = focal_loss(x, torch.tensor([0]), gamma=gamma)
        assert loss.item() == pytest.approx(entropy * 0.25**gamma)
    as_binary = focal_loss(torch.tensor([3.0]).log(), torch.tensor([1.0]), form="sigmoid")
    assert as_binary.item() == pytest.approx(entropy / 16)


def test_weights_and_smoothing_do_not_distort_the_factor() -> None:
    """Read off a weighted cross-entropy, p would be p to the power of the weight."""
    x, y = torch.randn(8, 3), torch.randint(3, (8,))
    plain = focal_loss(x, y, reduction="none")
    weight = torch.tensor([0.0, 1.0, 20.0])
    for options in ({"weight": weight}, {"alpha": weight}):
        loss = ANY(x, y, reduction="none", **options)
        torch.testing.assert_close(loss, plain * weight[y])
    torch.testing.assert_close(
        focal_loss(x, y, alpha=weight), (plain * weight[y]).mean(), rtol=1e-6, atol=1e-7
    )
    torch.testing.assert_close(
        focal_loss(x, y, weight=weight), (plain * weight[y]).sum() / weight[y].sum()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16])
def test_losses_and_gradients_of_huge_logits_are_finite(
    dtype: torch.dtype, autocast: torch.dtype | None
) -> None:
    """P29, R20: logits of ±1e4, right and wrong, also where roots have no slope."""
    x = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0], [0, 0, 0], [30, -1, 4]], dtype=dtype)
    y = torch.tensor([0, 0, 1, 0])
    q = functional.one_hot(y, 3).to(dtype)
    for gamma, smoothing, alpha in itertools.product(
        (0, 0.5, 1, 2, 5), (0.0, 0.1), (None, torch.tensor([0.2, 0.5, 1.0]))
    ):
        for form, target in (("softmax", y), ("softmax", q), ("sigmoid", q)):
            options: Any = {"gamma": gamma, "label_smoothing": smoothing, "alpha": alpha}
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                value, slope = graded(focal_loss, x, target, form=form, **options)
            assert value.isfinite()
            assert slope.isfinite().all()
            assert slope.dtype == dtype
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_sixteen_bits_give_what_thirty_two_do() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x, y = torch.randn(64, 10).to(dtype), torch.randint(10, (64,))
        with torch.autocast("cpu", dtype):
            assert focal_loss(x, y) == focal_loss(x.float(), y)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_those_of_finite_differences(gamma: float) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y, q = torch.tensor([0, 3, IGNORED]), torch.randn(3, 4, dtype=torch.float64).softmax(1)
    weight = torch.rand(4, dtype=torch.float64)
    for target, form, smoothing in itertools.product((y, q), ("softmax", "sigmoid"), (0.0, 0.1)):
        if target is q or form == "softmax":
            loss = partial(ANY, gamma=gamma, form=form, label_smoothing=smoothing, alpha=weight)
            assert torch.autograd.gradcheck(loss, (x, target))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_a_batch_that_is_all_ignored_gives_0_and_backward_runs(form: Any, reduction: Any) -> None:
    """P29: torch's mean is NaN there, of which one rank without a target would be enough."""
    shape = (4,) if form == "softmax" else (4, 3)
    target = torch.full(shape, IGNORED)
    for gamma, smoothing in itertools.product((0.0, 0.5, 2.0), (0.0, 0.1)):
        options: Any = {"gamma": gamma, "label_smoothing": smoothing, "reduction": reduction}
        value, slope = graded(focal_loss, torch.randn(4, 3), target, form=form, **options)
        assert torch.equal(value, torch.zeros_like(value))
        assert torch.equal(slope, torch.zeros(4, 3))
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = focal_loss(empty, torch.zeros(*shape).long()[:0], form=form, reduction=reduction)
    loss.sum().backward()


BROKEN = pytest.mark.parametrize("value", [math.nan, math.inf])


@BROKEN
@pytest.mark.parametrize("kind", ["classes", "probabilities", "sigmoid"])
def test_a_sample_without_a_loss_is_left_out_and_has_no_gradient(kind: str, value: float) -> None:
    """Torch's loss and all gradients would be NaN."""
    x = torch.randn(5, 3)
    x[1, 2] = value
    classes = torch.randint(3, (5,))
    q = functional.one_hot(classes, 3).float()
    target, form = (
        (classes if kind == "classes" else q),
        "sigmoid" if kind == "sigmoid" else "softmax",
    )
    rest = torch.ones(5, 3, dtype=torch.bool)
    rest[1, slice(2, 3) if kind == "sigmoid" else slice(None)] = False
    for gamma, reduction in itertools.product((0.0, 0.5, 2.0), ("mean", "sum")):
        options: Any = {"form": form, "gamma": gamma, "reduction": reduction}
        loss, slope = graded(focal_loss, x, target, **options)
        if kind == "sigmoid":
            expected = focal_loss(x[rest], q[rest], **options)
        else:
            kept = [0, 2, 3, 4]
            expected = focal_loss(x[kept], target[kept], **options)
        torch.testing.assert_close(loss, expected)
        assert slope.isfinite().all()
        assert (slope[~rest] == 0).all()
    unreduced, slope = graded(ANY, x, target, form=form, reduction="none")
    assert unreduced.isnan().sum() == 1
    assert slope.isfinite().all()


@BROKEN
def test_where_no_sample_has_a_loss_it_is_nan(value: float) -> None:
    """A broken network must not look like a perfect one."""
    x, y = torch.full((3, 2), value), torch.tensor([0, 1, IGNORED])
    for reduction in ("mean", "sum"):
        assert ANY(x, y, reduction=reduction).isnan()
    assert ANY(x[2:], y[2:]) == 0
    assert ANY(x, torch.ones(3, 2), form="sigmoid").isnan()


def test_a_target_that_is_hidden_is_left_out() -> None:
    """Torch's loss is infinite there; nothing can be learned from it."""
    x, y = torch.tensor([[1.0, 2.0, -math.inf]] * 2), torch.tensor([0, 2])
    weight = torch.tensor([1.0, 1.0, 0.0])
    for options in ({}, {"weight": weight}, {"gamma": 0.0}):
        value, slope = graded(focal_loss, x, y, **options)
        torch.testing.assert_close(value, ANY(x[:1], y[:1], **options))
        assert slope.isfinite().all()
        assert ANY(x[1:], y[1:], **options).isnan()


def test_classes_hidden_by_minus_infinity_are_no_fault() -> None:
    x, y = torch.tensor([[1.0, 2.0, -math.inf]] * 2), torch.tensor([0, 1])
    for gamma in (0.0, 0.5, 2.0):
        value, slope = graded(focal_loss, x, y, gamma=gamma)
        assert value == focal_loss(x[:, :2], y, gamma=gamma)
        assert slope.isfinite().all()


def test_the_mean_is_over_positives_if_asked_for() -> None:
    """Lin et al. divide by the anchors that hold an object."""
    x, y = torch.randn(6, 3), torch.tensor([2, 2, 1, 2, 0, IGNORED])
    total = focal_loss(x, y, reduction="sum")
    over = focal_loss(x, y, normalize="positives", background=2)
    torch.testing.assert_close(over, total / 2)
    yes = torch.tensor([[1.0, 0, 0], [1.0, 1, 0]])
    total = focal_loss(x[:2], yes, form="sigmoid", reduction="sum")
    torch.testing.assert_close(
        focal_loss(x[:2], yes, form="sigmoid", normalize="positives"), total / 3
    )
    none = focal_loss(x[:2], 0 * yes, form="sigmoid", normalize="positives")
    torch.testing.assert_close(none, focal_loss(x[:2], 0 * yes, form="sigmoid", reduction="sum"))


def test_two_classes_of_softmax_are_one_of_sigmoid() -> None:
    x, y = torch.randn(9, 2), torch.randint(2, (9,))
    for gamma in (0.5, 2.0):
        one = focal_loss(x[:, 1] - x[:, 0], y.float(), form="sigmoid", gamma=gamma)
        torch.testing.assert_close(focal_loss(x, y, gamma=gamma), one)
        both = focal_loss(x[:, 1] - x[:, 0], y, form="sigmoid", gamma=gamma)
        assert one == both
        hot = functional.one_hot(y, 2).float()
        torch.testing.assert_close(focal_loss(x, hot, gamma=gamma), one)


def test_one_sample_needs_no_batch() -> None:
    x, y = torch.randn(4), torch.tensor(2)
    torch.testing.assert_close(focal_loss(x, y), focal_loss(x[None], y[None]))
    unreduced = focal_loss(x, functional.one_hot(y, 4).float(), reduction="none")
    assert unreduced.shape == ()


def test_nothing_that_was_given_is_changed() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, IGNORED])
    x[0, 0] = math.nan
    weight, q = torch.rand(3), torch.rand(4, 3)
    given = (x, y, q, weight)
    before = [each._version for each in given]
    for target, form in ((y, "softmax"), (q, "softmax"), (q, "sigmoid")):
        for reduction in ("mean", "sum", "none"):
            ANY(x, target, form=form, weight=weight, alpha=weight, reduction=reduction)
    assert [each._version for each in given] == before


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_classes_may_be_of_any_whole_type(dtype: torch.dtype) -> None:
    """Masks of images are bytes."""
    x, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    target[0, 0] = 99
    few = focal_loss(x, target.to(dtype), ignore_index=99)
    assert few == focal_loss(x, target, ignore_index=99)


def test_it_compiles_into_one_graph() -> None:
    torch._dynamo.reset()
    x, y = torch.randn(8, 3), torch.randint(3, (8,))
    q = functional.one_hot(y, 3).float()
    options: Any = {"alpha": [0.2, 0.3, 0.5], "label_smoothing": 0.1}
    for form, target in (("softmax", y), ("softmax", q), ("sigmoid", q)):
        module: Any = FocalLoss(**{"form": form, **options})
        compiled: Any = torch.compile(module, fullgraph=True, backend="eager")
        ours = graded(compiled, x, target)
        torch.testing.assert_close(ours, graded(module, x, target))
        broken = x.index_fill(0, torch.tensor([0]), math.nan)
        compiled(broken, target)
        assert int(module.nan_count) == (3 if form == "sigmoid" else 1)
    torch._dynamo.reset()


class Calls(TorchFunctionMode):
    """Takes note of the losses that are called, as Doctor does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "cross_entropy" in getattr(func, "__name__", ""):
            self.seen.append((func.__name__, (kwargs or {}).get("weight") is not None))
        return func(*args, **(kwargs or {}))


def test_those_who_watch_loss_functions_see_one_call_of_torchs_own() -> None:
    """So Doctor's findings on outputs, classes and examples hold for it."""
    x, y = torch.randn(4, 3, requires_grad=True), torch.randint(3, (4,))
    with Calls() as calls:
        focal_loss(x, y)
        focal_loss(x, y, weight=[1, 2, 3])
        focal_loss(x, y, weight=[1, 2, 3], label_smoothing=0.1)
        focal_loss(x, functional.one_hot(y, 3), form="sigmoid")
    assert calls.seen == [
        ("cross_entropy", False), ("cross_entropy", True), ("cross_entropy", True),
        ("binary_cross_entropy_with_logits", False),
    ]  # fmt: skip


# --- the module ---


def test_the_module_is_the_function() -> None:
    options: Any = {
        "gamma": 1.5, "weight": [1.0, 2.0, 3.0], "alpha": (0.1, 0.2, 0.3), "ignore_index": 0,
        "label_smoothing": 0.1, "normalize": "positives", "background": 2,
    }  # fmt: skip
    x, y = torch.randn(8, 3), torch.randint(3, (8,))
    module = FocalLoss(**options)
    assert module(x, y) == focal_loss(x, y, **options)
    assert pickle.loads(pickle.dumps(module))(x, y) == copy.deepcopy(module)(x, y) == module(x, y)
    assert repr(module) == "FocalLoss(gamma=1.5, form='softmax', reduction='mean')"
    assert module.double()(x.double(), y).dtype == torch.float64


def test_its_state_is_that_of_torchs_loss() -> None:
    """So that a checkpoint of one loads into the other."""
    weight = torch.tensor([1.0, 2.0])
    ours, theirs = FocalLoss(weight=weight), nn.CrossEntropyLoss(weight)
    ours.load_state_dict(theirs.state_dict())
    assert not FocalLoss(alpha=0.25).state_dict()


def test_the_module_counts_what_it_leaves_out_and_warns_once() -> None:
    module = FocalLoss()
    x, y = torch.randn(4, 3), torch.tensor([0, 1, IGNORED, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(x, y)
        module(x.index_fill(0, torch.tensor([2]), math.nan), y)  # its target is ignored
    broken = x.index_fill(0, torch.tensor([0, 3]), math.nan)
    with pytest.warns(DiagWarning, match=r"`FocalLoss` has left out 2 of its losses") as caught:
        [module(broken, y) for _ in range(2)]
    assert len(caught) == 1
    assert int(module.nan_count) == 4


def test_on_a_gpu_it_looks_at_the_count_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    class Count:
        def to(self, device: torch.device) -> Count:
            return self

        def __add__(self, other: object) -> Count:
            return self

        def __int__(self) -> int:
            looks.append(module._calls)
            return 0

    class Elsewhere:
        device = torch.device("cuda", 0)

        def sum(self) -> int:
            return 0

    module: Any = FocalLoss()
    module.nan_count = Count()
    for _ in range(100):
        module.count_broken(Elsewhere())
    assert looks == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "`gamma` must be 0 or more, and finite, got -1.0"),
        ({"gamma": math.nan}, "`gamma` must be"),
        ({"form": "tanh"}, "`form` must be softmax or sigmoid, got 'tanh'"),
        ({"alpha": 1.5, "form": "sigmoid"}, "`alpha` must be from 0 to 1, got 1.5"),
        ({"alpha": -0.5}, "`alpha` must be 0 or more, got -0.5"),
        ({"pos_weight": [1.0]}, "`pos_weight` is for form='sigmoid' alone"),
        ({"label_smoothing": 1.5}, "`label_smoothing` must be from 0 to 1"),
        ({"normalize": "all"}, "`normalize` must be targets or positives"),
        ({"normalize": "positives", "reduction": "sum"}, "leave one of them out"),
        ({"reduction": "median"}, "`reduction` must be mean, sum or none, got 'median'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    for make in (lambda: FocalLoss(**options), lambda: ANY(torch.zeros(1, 2), None, **options)):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    ("shape", "target", "options", "error", "message"),
    [
        ((4, 3), torch.zeros(3).long(), {}, ValueError, "without dimension 1, got"),
        ((4, 3), torch.zeros(4, 3).long(), {}, TypeError, "call `.float\\(\\)`"),
        ((4, 3), torch.zeros(4).bool(), {}, TypeError, "torch.bool"),
        ((4, 3), torch.zeros(4), {}, ValueError, "probabilities of the shape of `logits`"),
        ((), torch.zeros(()), {}, ValueError, "a dimension of classes"),
        ((4, 3), torch.zeros(4), {"form": "sigmoid"}, ValueError, "shape of `logits` with form"),
        (
            (4, 3), torch.zeros(4, 3), {"form": "sigmoid", "alpha": [0.5]},
            ValueError, "one for each of 3 classes",
        ),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit_are_refused_in_words(
    shape: tuple[int, ...], target: Tensor, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ANY(torch.zeros(shape), target, **options)


def test_losses_need_no_lightning() -> None:
    """Not even for their types: what they import is torch, and parts that import no more."""
    known = {"warning", *(f"hard.{name}" for name in PARTS)}
    for name in PARTS:
        module = importlib.import_module(f"lightning_diag.hard.{name}")
        tree = ast.parse(inspect.getsource(module))
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        ours = {each.removeprefix("lightning_diag.") for each in names if "lightning" in each}
        assert ours <= known
