"""`OHEMLoss`: phased in, over the accumulated batch, and what it says of itself (H2, P28)."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag import DiagWarning, OHEMLoss, ohem_loss
from lightning_diag.hard import pooled

LOSSES = torch.arange(1.0, 9.0)


def kept(criterion: OHEMLoss) -> list[float]:
    """Return which of eight losses are kept."""
    return [loss for loss in criterion(LOSSES).tolist() if loss]


def test_it_is_the_function() -> None:
    x, target = torch.randn(9, 4), torch.randint(0, 4, (9,))
    weight = [1.0, 2.0, 0.5, 1.0]
    for options in ({"keep": 0.5}, {"ratio": 2}, {"threshold": 1.0, "min_kept": 3}):
        mine = OHEMLoss(weight=weight, **options)(x, target)
        theirs = ohem_loss(x, target, weight=torch.tensor(weight), **options)
        assert mine.equal(theirs)


def test_weights_move_with_the_module_and_are_saved_as_those_of_cross_entropy_are() -> None:
    criterion = OHEMLoss(weight=[1.0, 2.0]).double()
    assert criterion.weight is not None
    assert criterion.weight.dtype == torch.float64
    theirs = torch.nn.CrossEntropyLoss(weight=torch.ones(2)).state_dict()
    criterion.load_state_dict(theirs)
    assert list(OHEMLoss().state_dict()) == []


def test_epochs_of_warmup_keep_all_and_then_mining_is_phased_in() -> None:
    criterion = OHEMLoss(loss=None, keep=0.25, warmup_epochs=2, anneal_epochs=2, reduction="none")
    sizes = []
    for epoch in range(6):
        criterion.set_epoch(epoch)
        sizes.append(len(kept(criterion)))
    assert sizes == [8, 8, 6, 4, 2, 2]


def test_in_evaluation_all_is_kept() -> None:
    criterion = OHEMLoss(loss=None, keep=2)
    assert criterion(LOSSES).item() == 7.5
    assert criterion.eval()(LOSSES).item() == 4.5


def test_whoever_depends_on_the_epoch_asks_for_it_once() -> None:
    criterion = OHEMLoss(loss=None, warmup_epochs=1)
    with pytest.warns(DiagWarning, match=r"the epoch, .* add `HardMining\(\)`"):
        criterion(LOSSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(LOSSES)
        OHEMLoss(loss=None)(LOSSES)
    with pytest.warns(DiagWarning, match="the micro-batch of a step"):
        OHEMLoss(loss=None, scope="accumulated")(LOSSES)


def test_what_is_not_finite_is_counted_and_told_of_once() -> None:
    criterion = OHEMLoss(loss=None)
    broken = torch.tensor([1.0, math.nan, math.inf])
    with pytest.warns(DiagWarning, match="The loss of 2 elements was not finite"):
        criterion(broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(broken)
        criterion.eval()(LOSSES)
    assert criterion.nonfinite == 4


def test_it_can_be_seen_what_was_kept() -> None:
    criterion = OHEMLoss(loss=None, keep=3)
    assert criterion(LOSSES, torch.tensor([0, 0, 0, 0, 5, 1, 1, 300])) == 7
    assert criterion.mined is None
    criterion.is_watched = True
    criterion(LOSSES, torch.tensor([0, 0, -100, 0, 5, 1, 1, 300]))
    mined = criterion.mined
    assert mined is not None
    assert mined.kept_of_class is not None
    assert mined.valid_of_class is not None
    assert (mined.kept.item(), mined.valid.item(), mined.threshold.item()) == (3, 7, 6.0)
    assert mined.kept_of_class.nonzero().flatten().tolist() == [1]
    assert mined.valid_of_class[:6].tolist() == [3, 2, 0, 0, 0, 1]


def network() -> torch.nn.Linear:
    torch.manual_seed(1)
    return torch.nn.Linear(5, 4)


def parts(sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    x, y = torch.randn(sum(sizes), 5), torch.randint(0, 4, (sum(sizes),))
    y[0] = -100
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


@pytest.mark.parametrize(
    "options", [{"keep": 0.3}, {"ratio": 1.5}, {"keep": 3, "reduction": "sum"}]
)
@pytest.mark.parametrize("sizes", [(4, 4, 4), (7, 1, 0, 4), (5,)])
def test_the_accumulated_batch_has_the_gradient_of_the_joined_one(
    sizes: tuple[int, ...], options: dict[str, Any]
) -> None:
    batches, weight = parts(sizes), [1.0, 2.0, 3.0, 0.5]
    whole = network()
    x, y = (torch.cat(each) for each in zip(*batches, strict=True))
    expected = OHEMLoss(weight=weight, **options)(whole(x), y)
    expected.backward()
    split, criterion = network(), OHEMLoss(scope="accumulated", weight=weight, **options)
    returned = []
    for i, (x, y) in enumerate(batches):
        criterion.set_micro_batch(is_last=i == len(batches) - 1, divisor=len(batches))
        loss = criterion(split(x), y) / len(batches)
        loss.backward()
        returned.append(loss.item())
    assert not any(returned[:-1])
    assert returned[-1] == pytest.approx(expected.item())
    assert whole.weight.grad is not None
    torch.testing.assert_close(split.weight.grad, whole.weight.grad)
    torch.testing.assert_close(split.bias.grad, whole.bias.grad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's, at a graph break
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_network_that_is_compiled_with_its_loss_accumulates(backend: str) -> None:
    """The zero of the first micro-batch must not free the compiled graph of the network."""
    torch._dynamo.reset()
    batches, gradients = parts((6, 6)), []
    for is_compiled in (False, True):
        whole = torch.nn.Sequential(network())
        criterion = OHEMLoss(keep=0.4, scope="accumulated")

        def step(x: Tensor, y: Tensor, whole: Any = whole, criterion: Any = criterion) -> Tensor:
            loss: Tensor = criterion(whole(x), y)
            return loss

        run = torch.compile(step, backend=backend) if is_compiled else step
        for i, (x, y) in enumerate(batches):
            criterion.set_micro_batch(is_last=i == 1)
            run(x, y).backward()
        gradients.append(whole[0].weight.grad)
    torch.testing.assert_close(*gradients)


def test_sizes_that_float32_cannot_hold_are_sent_in_two_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gather(found: list[Tensor], sent: Tensor) -> None:
        found[0].copy_(sent)

    monkeypatch.setattr(pooled, "_HIGH", 4)
    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    pool = pooled.Pool()
    for n in (11, 3, 12, 0):
        columns = [torch.rand(n), torch.rand(n)]
        joined, start = pool.join(columns)
        assert start == 0
        assert all(mine.equal(theirs) for mine, theirs in zip(joined, columns, strict=True))


def test_graphs_of_steps_that_were_broken_off_can_be_let_go() -> None:
    criterion = OHEMLoss(loss=None, keep=1.0, scope="accumulated")
    criterion.set_micro_batch(is_last=False)
    criterion(LOSSES)
    criterion.forget()
    criterion.set_micro_batch(is_last=True)
    assert criterion(LOSSES).item() == LOSSES.mean()


def test_it_is_copied_and_pickled_without_graphs() -> None:
    criterion = OHEMLoss(keep=0.5, scope="accumulated", warmup_epochs=1, weight=torch.ones(3))
    criterion.set_epoch(3)
    criterion.set_micro_batch(is_last=False)
    criterion(torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0]))
    buffer = io.BytesIO()
    torch.save(criterion, buffer)
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        other.set_micro_batch(is_last=True)
        x = torch.randn(4, 3)
        target = torch.tensor([0, 1, 2, 0])
        expected = functional.cross_entropy(x, target, reduction="none").topk(2).values.mean()
        torch.testing.assert_close(other(x, target), expected)


def test_a_module_that_is_a_loss_keeps_its_place() -> None:
    own = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)
    criterion = OHEMLoss(own, keep=1.0)
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(criterion(x, target), own(x, target).mean())
    assert dict(criterion.named_modules())["loss"] is own


@pytest.mark.slow
def test_it_compiles_into_one_graph_for_all_epochs() -> None:
    """Annealing changes a number in each epoch, and compiles nothing anew."""
    torch._dynamo.reset()
    criterion = OHEMLoss(keep=0.25, warmup_epochs=1, anneal_epochs=12, weight=[1.0, 2.0, 3.0])
    compiled = torch.compile(criterion, fullgraph=True, backend="eager")
    for epoch in range(14):
        criterion.set_epoch(epoch)
        x = torch.randn(8, 3, requires_grad=True)
        target = torch.randint(0, 3, (8,))
        mine, theirs = compiled(x, target), criterion(x, target)
        torch.testing.assert_close(mine, theirs)
        (gradient,) = torch.autograd.grad(mine, x)
        torch.testing.assert_close(gradient, torch.autograd.grad(theirs, x)[0])
    compiled(torch.full((8, 3), math.nan), torch.zeros(8).long())
    assert criterion.nonfinite == 8
    with pytest.warns(DiagWarning, match="The loss of 8 elements"):
        criterion.set_epoch(14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "`loss` must be one of"),
        ({"scope": "world"}, "`scope` must be one of"),
        ({"scope": "accumulated", "reduction": "none"}, "take mean or sum"),
        ({"warmup_epochs": -1}, "`warmup_epochs` must be"),
        ({"anneal_epochs": 0.5}, "`anneal_epochs` must be"),
        ({"weight": [-1.0]}, "Weights must be at least 0"),
        ({"keep": 0.5, "threshold": 1.0}, "got `keep` and `threshold`"),
    ],
)
def test_bad_arguments_are_refused_at_construction(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OHEMLoss(**options)


def test_it_says_what_it_keeps() -> None:
    assert repr(OHEMLoss(ratio=3)) == "OHEMLoss('cross_entropy', ratio=3, batch)"
