"""Which calls of loss functions are seen, and what is read off them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from spy import Spy, attached, places, watch_of, watching
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_diag.measure.base import Call, Columns, LossCall
from lightning_diag.probe.functions import _LOSSES, OPERANDS
from lightning_diag.probe.losses import activation_of

CLASSES = torch.tensor([0, 1, 2, 0])
NUMBERS = torch.rand(4, 3)
SIGNS = torch.tensor([[1.0, -1.0, 1.0]] * 4)


class Seen(Spy):
    """Keeps the calls."""

    def __init__(self) -> None:
        super().__init__("loss")
        self.calls: list[LossCall] = []

    def after(self, call: Call) -> Columns | None:
        assert isinstance(call, LossCall)
        self.calls.append(call)
        return super().after(call)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """P17: after any of these tests, nothing is attached to anything."""
    before = attached()
    yield
    assert attached() == before


def scores() -> Tensor:
    return torch.randn(4, 3, requires_grad=True)


def calls(run: Callable[[], Any], root: nn.Module | None = None) -> list[LossCall]:
    spy = Seen()
    with watching(root or nn.Module(), spy):
        run()
    return spy.calls


TARGETS = {
    "cross_entropy": CLASSES,
    "nll_loss": CLASSES,
    "multi_margin_loss": CLASSES,
    "soft_margin_loss": SIGNS,
    "hinge_embedding_loss": SIGNS,
}


@pytest.mark.parametrize("name", _LOSSES)
def test_each_loss_function_is_seen_once(name: str) -> None:
    """What it calls within does not count again."""
    x, target = scores(), TARGETS.get(name, NUMBERS)
    given = x.sigmoid() if name == "binary_cross_entropy" else x
    extra = {"var": torch.ones(4, 3)} if name == "gaussian_nll_loss" else {}
    options = {"reduction": "sum"} if name == "kl_div" else {}
    spy = Seen()
    with watching(nn.Module(), spy):
        loss = getattr(functional, name)(given, target, **extra, **options)
    (call,) = spy.calls
    assert call.place == f"{name}#0"
    assert call.input is given
    assert call.target is target
    assert call.output is loss


@pytest.mark.parametrize(
    ("criterion", "target"),
    [
        (nn.CrossEntropyLoss(), CLASSES),
        (nn.NLLLoss(), CLASSES),
        (nn.BCEWithLogitsLoss(), NUMBERS),
        (nn.MSELoss(), NUMBERS),
        (nn.L1Loss(), NUMBERS),
        (nn.SmoothL1Loss(), NUMBERS),
        (nn.HuberLoss(), NUMBERS),
        (nn.KLDivLoss(reduction="batchmean"), NUMBERS),
        (nn.PoissonNLLLoss(), NUMBERS),
        (nn.HingeEmbeddingLoss(), SIGNS),
        (nn.SoftMarginLoss(), SIGNS),
        (nn.MultiMarginLoss(), CLASSES),
        (nn.MultiLabelMarginLoss(), torch.tensor([[0, -1, -1]] * 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_modules_reach_the_same_functions(criterion: nn.Module, target: Tensor) -> None:
    root = nn.Module()
    root.criterion = criterion
    (call,) = calls(lambda: criterion(scores(), target), root)
    assert call.place.startswith("criterion/")


COMPARED: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "triplet_margin_loss": lambda x: (x, NUMBERS, NUMBERS.flip(0)),
    "triplet_margin_with_distance_loss": lambda x: (x, NUMBERS, NUMBERS.flip(0)),
    "cosine_embedding_loss": lambda x: (x, NUMBERS, SIGNS[:, 0]),
    "margin_ranking_loss": lambda x: (x, NUMBERS, SIGNS),
    "multilabel_margin_loss": lambda x: (x, torch.tensor([[0, -1, -1]] * 4)),
}


@pytest.mark.parametrize("name", COMPARED)
def test_what_is_compared_is_seen_without_a_target(name: str) -> None:
    x, function = scores(), getattr(functional, name)
    names = OPERANDS[name] if len(OPERANDS[name]) == 3 else (*OPERANDS[name], "target")
    keywords = dict(zip(names, COMPARED[name](x), strict=True))
    seen = calls(lambda: (function(*COMPARED[name](x)), function(**keywords)))
    assert len(seen) == 2
    for call in seen:
        assert call.input is x
        assert call.target.numel() == 0
        assert call.ignore_index is None


@pytest.mark.parametrize("name", ["triplet_margin_loss", "cosine_embedding_loss"])
def test_of_what_is_compared_the_first_that_is_trained_stands_for_all(name: str) -> None:
    """A frozen tower, or a bank of embeddings, comes first as often as last."""
    x, function = scores(), getattr(functional, name)
    frozen, _, *rest = COMPARED[name](NUMBERS)
    (call,) = calls(lambda: function(frozen, x, *rest))
    assert call.input is x
    assert calls(lambda: function(frozen, frozen, *rest)) == []


def test_sequences_of_characters_begin_with_the_sample() -> None:
    """Time comes first in a CTC loss, and is no sample."""
    x = torch.randn(5, 4, 3, requires_grad=True)
    text, lengths = torch.ones(4, 2).long(), torch.full((4,), 5)
    (call,) = calls(lambda: functional.ctc_loss(x.log_softmax(2), text, lengths, lengths // 3))
    assert call.input.shape == (4, 5, 3)
    assert not call.input.requires_grad
    assert call.target.numel() == 0
    assert (call.activation, call.reduction) == ("log_softmax", "mean")
    (call,) = calls(lambda: nn.CTCLoss()(x[:, 0].log_softmax(1), text[0], (5,), (2,)))
    assert call.input.shape == (5, 3)


def test_calls_count_by_function_and_module() -> None:
    root = nn.Sequential(nn.MSELoss())

    def run() -> None:
        functional.mse_loss(scores(), NUMBERS)
        root[0](scores(), NUMBERS)
        functional.mse_loss(scores(), NUMBERS)

    assert [call.place for call in calls(run, root)] == [
        "mse_loss#0",
        "0/mse_loss#0",
        "mse_loss#1",
    ]


def test_what_trains_nothing_is_not_seen() -> None:
    """A loss of detached tensors, or without gradients, is there to be looked at."""

    def run() -> None:
        functional.cross_entropy(scores().detach(), CLASSES)
        with torch.no_grad():
            functional.mse_loss(scores(), NUMBERS)
        functional.mse_loss(NUMBERS, NUMBERS)

    assert calls(run) == []


def start(self: Any) -> None:
    super(type(self), self).__init__()
    self.add_state("total", torch.tensor(0.0))


def test_a_metric_is_not_a_loss() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")

    def update(self: Any, x: Tensor) -> None:
        with torch.enable_grad():
            self.total = functional.mse_loss(x, NUMBERS).detach()

    members = {"__init__": start, "update": update, "compute": lambda self: self.total}
    metric = type("Distance", (torchmetrics.Metric,), members)()
    root = nn.Module()
    root.metric = metric
    assert calls(lambda: metric(scores()), root) == []


def test_a_loss_written_by_hand_is_not_observed() -> None:
    assert calls(lambda: (scores() - NUMBERS).square().mean()) == []


def test_losses_are_no_call_sites() -> None:
    """They have no activation whose units could be dead."""
    with watching(nn.Module(), Seen()) as watch:
        functional.mse_loss(scores(), NUMBERS)
    assert watch.sites == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "mean"),
        ({"reduction": "sum"}, "sum"),
        ({"reduction": "none"}, "none"),
        ({"reduce": False}, "none"),
        ({"size_average": False}, "sum"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*size_average and reduce args")
def test_reduction_is_read_however_it_is_said(options: dict[str, Any], expected: str) -> None:
    (call,) = calls(lambda: functional.mse_loss(scores(), NUMBERS, **options))
    assert call.reduction == expected


def test_keywords_positions_and_weights_are_read() -> None:
    def run() -> None:
        functional.cross_entropy(input=scores(), target=CLASSES, weight=torch.ones(3))
        functional.cross_entropy(scores(), CLASSES, None, None, 2, None, "sum")
        functional.huber_loss(scores(), NUMBERS, "mean", 3.0)

    first, second, third = calls(run)
    assert (first.weighted, first.ignore_index, first.reduction) == (True, -100, "mean")
    assert (second.weighted, second.ignore_index, second.reduction) == (False, 2, "sum")
    assert (third.scale, third.ignore_index) == (3.0, None)


@pytest.mark.parametrize(
    ("activate", "expected"),
    [
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: torch.sigmoid(x).squeeze(1).view(-1), "sigmoid"),
        (lambda x: x.log_softmax(1).permute(1, 0).contiguous(), "log_softmax"),
        (lambda x: torch.relu(x)[:, 0], "relu"),
        (lambda x: x.tanh().to(torch.float64), "tanh"),
        (lambda x: x.sigmoid().clamp(1e-6, 1 - 1e-6), "sigmoid"),
        (lambda x: x.softmax(1).log(), "log"),
        (lambda x: x.softmax(1).where(x.isfinite(), torch.zeros(())), "softmax"),
        (lambda x: 30 * torch.tanh(x / 30), ""),
        (lambda x: x @ torch.ones(3, 2), ""),
        (lambda x: x, ""),
    ],
)
def test_the_function_before_the_loss_is_known(
    activate: Callable[[Tensor], Tensor], expected: str
) -> None:
    assert activation_of(activate(scores())) == expected


def test_what_checkpointing_hides_is_not_guessed() -> None:
    x = checkpoint(torch.sigmoid, scores(), use_reentrant=True)
    assert isinstance(x, Tensor)
    assert activation_of(x) == ""


def test_losses_are_passed_over_where_nobody_looks() -> None:
    class Idle(Seen):
        def is_due(self) -> bool:
            return False

    spy = Idle()
    watch = watch_of(nn.Module(), spy)
    watch.start()
    try:
        functional.mse_loss(scores(), NUMBERS)
    finally:
        watch.stop()
    assert spy.calls == []


def test_the_error_of_a_loss_is_its_own() -> None:
    with (
        pytest.raises(ValueError, match="Expected input batch_size"),
        watching(nn.Module(), Seen()),
    ):
        functional.cross_entropy(scores(), torch.tensor([0]))


def test_other_places_keep_their_numbers() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def run() -> None:
        functional.mse_loss(net(NUMBERS), NUMBERS)
        torch.relu(scores())

    assert places(net, run) == ["1/relu#0", "relu#0"]
