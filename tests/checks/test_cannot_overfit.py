"""A handful of samples is learned by heart, or it is told how far it came (C3, P26)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from checks.functions import Forgetful, idle
from checks.subjects import HEALTHY, Pair, Plain, labels, loader, made, mlp, numbers, table
from lightning_diag.before_training import subject
from lightning_diag.checks.cannot_overfit import CannotOverfit
from lightning_diag.checks.floor import best_loss, groups_of
from lightning_diag.checks.losses import LossCatch
from lightning_diag.finding import Finding, NotObserved

Y = torch.tensor([0, 1, 1, 2])
SEPARATE, ALIKE = torch.arange(4), torch.zeros(4, dtype=torch.long)
QUICK = CannotOverfit(steps=60, patience=20)


def best(function: Callable[..., Tensor], x: Tensor, y: Tensor, groups: Tensor, **o: Any) -> float:
    """Return the least loss of a call for a grouping of its samples."""
    with LossCatch({}) as catch:
        function(x.requires_grad_(), y, **o)
    return best_loss(catch.seen[0], groups)


def test_hard_targets_can_be_met_and_a_constant_answer_has_their_entropy() -> None:
    x, entropy = numbers(4, 3), 1.5 * math.log(2)
    assert best(functional.cross_entropy, x, Y, SEPARATE) == pytest.approx(0, abs=1e-6)
    assert best(functional.cross_entropy, x, Y, ALIKE) == pytest.approx(entropy)
    assert best(functional.nll_loss, x, Y, ALIKE) == pytest.approx(entropy)
    half = best(functional.cross_entropy, x, Y, ALIKE, ignore_index=2)
    assert half == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


def test_soft_targets_leave_their_entropy() -> None:
    soft = torch.full((4, 3), 1 / 3)
    assert best(functional.cross_entropy, numbers(4, 3), soft, SEPARATE) == pytest.approx(
        math.log(3)
    )
    half = torch.full((4,), 0.5)
    for function, x in (
        (functional.binary_cross_entropy_with_logits, numbers(4)),
        (functional.binary_cross_entropy, numbers(4).sigmoid().detach()),
    ):
        assert best(function, x, half, SEPARATE) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("function", "x", "y", "options"),
    [
        (functional.cross_entropy, numbers(4, 3), Y, {"weight": torch.tensor([1.0, 2.0, 5.0])}),
        (
            functional.binary_cross_entropy_with_logits,
            numbers(4),
            torch.tensor([0.0, 1.0, 1.0, 0.0]),
            {"pos_weight": torch.tensor(3.0)},
        ),
        (functional.mse_loss, numbers(4), numbers(4, seed=1), {}),
        (functional.cross_entropy, numbers(4, 3, 5), labels(3, 20).view(4, 5), {}),
    ],
)
def test_no_other_constant_answer_is_better(
    function: Callable[..., Tensor], x: Tensor, y: Tensor, options: dict[str, Any]
) -> None:
    """Against what a search finds."""
    least = best(function, x.clone(), y, ALIKE, **options)
    answer = torch.zeros_like(x[:1]).requires_grad_()
    search = torch.optim.LBFGS([answer], max_iter=100)

    def closure() -> Tensor:
        search.zero_grad()
        loss = function(answer.expand_as(x), y, **options)
        loss.backward()
        return loss

    search.step(closure)
    assert least == pytest.approx(closure().item(), abs=1e-4)


def test_a_column_against_a_row_is_compared_with_what_was_meant() -> None:
    x = numbers(4, 1)
    with pytest.warns(UserWarning, match="broadcast"):
        least = best(functional.mse_loss, x, numbers(4), SEPARATE)
    assert least == pytest.approx(numbers(4).var(unbiased=False).item() * 2, rel=2)


def test_words_are_told_apart_by_those_before_them() -> None:
    x = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 5, 3]])
    whole, before = groups_of([x, x + 1], x + 1)
    assert len(set(whole.tolist())) == 3
    columns = [before[:, i].tolist() for i in range(3)]
    assert [len(set(column)) for column in columns] == [1, 2, 3]


def verdict(
    pair: Callable[[], Pair], check: CannotOverfit | None = None
) -> list[Finding] | NotObserved:
    module, data = made(pair)
    return (check or CannotOverfit())(subject(module, data))


def found(pair: Callable[[], Pair], check: CannotOverfit | None = None) -> Finding:
    said = verdict(pair, check)
    assert isinstance(said, list)
    (finding,) = said
    return finding


class Idle(Forgetful):
    """Has a layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)


def test_inputs_that_do_not_arrive_are_found_and_layers_that_did_not_move_are_named() -> None:
    finding = found(lambda: (Plain(Idle()), table()), QUICK)
    assert finding.severity == "bad"
    assert finding.places == ("net.idle.weight", "net.idle.bias")
    assert finding.evidence.value > 0.9
    assert "20 samples" in finding.message


def test_an_optimizer_that_does_nothing_is_told_from_a_network_that_cannot() -> None:
    finding = found(lambda: (Plain(mlp(), optimizer=idle), table()))
    assert finding.severity == "suspect"
    assert "by Adam at 0.003" in finding.message


class Uphill(Plain):
    """Goes the wrong way."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go up."""
        (-loss).backward()


def test_the_module_s_own_backward_is_what_is_run() -> None:
    assert found(lambda: (Uphill(mlp()), table()), QUICK).severity == "bad"


class Noisy(Dataset[Any]):
    """Draws each sample anew."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return torch.randn(8), index % 3


SEEN: list[float] = []


class Watching(Plain):
    """Notes what it sees, spoils it, and has all kinds of what makes learning harder."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return a loss with noise of its own."""
        x, y = batch
        SEEN.append(x.sum().item())
        noise = torch.randn_like(x)
        SEEN.append(noise.sum().item())
        scores = self.net(x + noise)
        x.zero_()
        return functional.cross_entropy(scores, y, label_smoothing=0.3)


def _decayed(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=50.0)


def test_each_step_gets_the_very_same_numbers_without_dropout_and_decay() -> None:
    """P26: other frameworks' batches were not the same each time."""
    SEEN.clear()
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.9), nn.Linear(32, 3))
    data = DataLoader(Noisy(), 32, shuffle=True)
    assert verdict(lambda: (Watching(net, optimizer=_decayed), data)) == []
    # The first two are those of the trial, on the whole batch.
    assert len(SEEN) > 20
    assert len(set(SEEN[2:])) == 2


class WarmUp(Plain):
    """Begins with a learning rate of zero."""

    def configure_optimizers(self) -> Any:
        """Return a warm-up."""
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 1e3)]


def test_a_warm_up_is_no_optimizer_that_does_nothing() -> None:
    assert verdict(lambda: (WarmUp(mlp()), table())) == []


def _contradicting() -> DataLoader[Any]:
    x = numbers(4, 8).repeat(16, 1)
    return loader(x, labels())


def test_samples_that_contradict_each_other_leave_a_floor() -> None:
    assert verdict(lambda: (Plain(mlp(), optimizer=_quick), _contradicting())) == []


def _quick(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=1e-2)


def test_small_batches_are_joined_to_one() -> None:
    data = loader(numbers(64, 8), labels(), batch_size=2)
    assert found(lambda: (Plain(Forgetful()), data), QUICK).evidence.window == 20


def test_a_small_network_gets_fewer_samples() -> None:
    """Two features and a line cannot hold twenty random labels."""
    line = Plain(nn.Linear(2, 2)), loader(numbers(64, 2), labels(2))
    assert CannotOverfit()._wanted(subject(*line)) == 2
    assert CannotOverfit()._wanted(subject(*HEALTHY["mlp"]())) == 20
    assert CannotOverfit()._wanted(subject(*HEALTHY["autoencoder"]())) == 11


def _ones() -> DataLoader[Any]:
    return loader(torch.ones(64, 8), labels())


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (HEALTHY["gan"], "`training_step` takes its steps itself"),
        (lambda: (Plain(mlp(), lambda x, y: x.square().mean()), table()), "how low the loss can"),
        (lambda: (Plain(mlp()), _ones()), "the samples have all the same inputs"),
    ],
)
def test_what_is_not_known_is_not_observed(pair: Callable[[], Pair], reason: str) -> None:
    said = verdict(pair, QUICK)
    assert isinstance(said, NotObserved)
    assert said.reason.startswith(reason)


def test_without_time_nothing_is_judged() -> None:
    said = verdict(lambda: (Plain(Forgetful()), table()), CannotOverfit(seconds=0.0))
    assert isinstance(said, NotObserved)
    assert said.reason.startswith("there was time for 0 steps only")
