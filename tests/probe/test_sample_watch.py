"""The loss of each sample of every training batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Classifier, data, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import DiagWarning, ohem_loss
from lightning_diag.probe.sample_watch import SampleWatch, Seen


class Owner(pl.Callback):
    """Forwards the hooks, as owners do, and keeps what is seen."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.watch = SampleWatch(self.seen.append)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.watch.fit_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.watch.batch_start(batch, batch_idx)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.watch.pause()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self.watch.resume()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.watch.batch_end(outputs)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.watch.let_go()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.watch.let_go()


class Steps(Classifier):
    """Its step is a function of network and batch."""

    def __init__(self, step: Callable[[Any, Any], Any], net: nn.Module | None = None) -> None:
        super().__init__(net or nn.Linear(8, 3))
        self.step = step

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(self.net, batch)


def seen(step: Callable[[Any, Any], Any], loader: Any = None, **options: Any) -> list[Seen]:
    owner = Owner()
    loader = data(8, 4) if loader is None else loader
    trainer(owner, max_epochs=1, **options).fit(Steps(step), loader)
    return owner.seen


def cross_entropy(net: Any, batch: Any) -> Tensor:
    return functional.cross_entropy(net(batch[0]), batch[1])


def plain(net: Any, batch: Any) -> Tensor:
    """Return a loss that torch knows no function of."""
    log_p: Tensor = net(batch[0]).log_softmax(1)
    return -log_p[torch.arange(len(batch[1])), batch[1]]


def test_each_sample_comes_with_its_loss_and_position() -> None:
    kept: list[Tensor] = []

    def step(net: Any, batch: Any) -> Tensor:
        kept.append(plain(net, batch).detach())
        return cross_entropy(net, batch)

    loader = data(10, 4, shuffle=True)
    first, second, third = seen(step, loader)
    for found, expected in zip((first, second, third), kept, strict=True):
        torch.testing.assert_close(found.losses, expected)
        assert found.losses.dtype == torch.float32
        assert not found.losses.requires_grad
        assert found.call is not None
        assert found.call.target.tolist() == [
            loader.dataset[i][1].item()
            for i in (found.indices if found.indices is not None else ())
        ]
    assert [found.batch for found in (first, second, third)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["losses", "sample_losses"])
def test_a_loss_of_ones_own_is_what_the_step_returns(name: str) -> None:
    def step(net: Any, batch: Any) -> Any:
        losses = plain(net, batch)
        return {"loss": losses.mean(), name: losses}

    found = seen(step)
    assert [len(each.losses) for each in found] == [4, 4]
    assert found[0].call is None
    assert found[0].indices is not None
    assert found[0].indices.tolist() == [0, 1, 2, 3]
    assert not found[0].losses.requires_grad


def test_what_the_step_returns_is_left_alone_where_a_call_was_seen() -> None:
    def step(net: Any, batch: Any) -> Any:
        return {"loss": cross_entropy(net, batch), "losses": torch.zeros(4)}

    assert all(found.call is not None for found in seen(step))


@pytest.mark.parametrize(
    "returned",
    [None, torch.zeros(()), torch.zeros(4, 1), [1.0, 2.0, 3.0, 4.0]],
    ids=["nothing", "a mean", "a column", "floats"],
)
def test_what_is_not_one_loss_for_each_sample_is_not_taken(returned: Any) -> None:
    def step(net: Any, batch: Any) -> Any:
        return {"loss": plain(net, batch).mean(), "losses": returned}

    assert seen(step) == []


def test_targets_that_do_not_count_have_no_loss() -> None:
    def step(net: Any, batch: Any) -> Tensor:
        target = batch[1].clone()
        target[1] = -100
        return functional.cross_entropy(net(batch[0]), target)

    assert [found.losses[1].item() for found in seen(step)] == [-torch.inf] * 2


def test_a_loss_that_is_not_a_number_stays_so() -> None:
    def step(net: Any, batch: Any) -> Tensor:
        x = net(batch[0])
        scale = torch.tensor([1.0, torch.nan, 1.0, 1.0])[:, None]
        functional.cross_entropy(x * scale, batch[1])
        return cross_entropy(net, batch)

    assert [found.losses.isnan().tolist() for found in seen(step)[::2]] == [
        [False, True, False, False]
    ] * 2


def sequences() -> DataLoader[Any]:
    torch.manual_seed(0)
    x, y = torch.randn(6, 5, 8), torch.randint(0, 3, (6, 5))
    y[1, 2:] = -100
    y[4] = -100
    return DataLoader(TensorDataset(x, y), 3)


def test_what_a_loss_of_ours_leaves_out_has_none() -> None:
    """It is cleaned before the call, and the loss of zeros is not the sample's."""

    def spoilt(net: Any, batch: Any) -> Tensor:
        return ohem_loss(net(batch[0]).index_fill(0, torch.tensor([2]), torch.nan), batch[1])

    with pytest.warns(DiagWarning, match="was not finite"):
        found = seen(spoilt)
    assert [each.losses.isfinite().tolist() for each in found] == [[True, True, False, True]] * 2


def test_rows_that_are_positions_of_sequences_are_averaged_over_each() -> None:
    def flat(net: Any, batch: Any) -> Tensor:
        return functional.cross_entropy(net(batch[0]).flatten(0, 1), batch[1].flatten())

    def dense(net: Any, batch: Any) -> Tensor:
        return functional.cross_entropy(net(batch[0]).transpose(1, 2), batch[1])

    of_rows = seeded(lambda: seen(flat, sequences()))
    of_sequences = seeded(lambda: seen(dense, sequences()))
    for one, other in zip(of_rows, of_sequences, strict=True):
        torch.testing.assert_close(one.losses, other.losses)
        assert torch.equal(one.indices, other.indices)
    assert of_rows[1].losses[1] == -torch.inf
    assert of_rows[0].losses[1].isfinite()


def test_rows_that_are_not_of_single_samples_are_not_told() -> None:
    """Two views of each sample, one behind the other: row 1 is sample 1, not sample 0."""

    def views(net: Any, batch: Any) -> Tensor:
        x, y = batch
        return functional.cross_entropy(net(torch.cat([x, x + 1])), torch.cat([y, y]))

    assert seen(views) == []


def test_of_large_predictions_no_sample_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = seeded(lambda: seen(cross_entropy))
    monkeypatch.setattr("lightning_diag.measure.sample_loss._ELEMENTS", 6)
    for one, other in zip(seeded(lambda: seen(cross_entropy)), whole, strict=True):
        assert torch.equal(one.losses, other.losses)
        assert one.indices is not None


def test_half_precision_is_told_in_float32() -> None:
    found = seen(cross_entropy, precision="bf16-true")
    assert found[0].losses.dtype == torch.float32


class Manual(Classifier):
    """Two losses, one behind the backward pass of the other, and teachers without gradient."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 3))
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            cross_entropy(self.net, batch)
        for _ in range(2):
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(cross_entropy(self.net, batch))
            optimizer.step()


def test_all_losses_that_are_trained_are_seen_in_manual_optimisation() -> None:
    owner = Owner()
    trainer(owner, max_epochs=1).fit(Manual(), data(8, 4))
    assert [found.batch for found in owner.seen] == [0, 0, 1, 1]


def test_a_compiled_module_is_left_alone() -> None:
    """It would be compiled again, if its calls were looked at."""
    net = nn.Linear(8, 3)
    net._compiled_call_impl = net._call_impl  # as `net.compile()` sets it, without a compiler
    owner = Owner()
    trainer(owner, max_epochs=1).fit(Steps(cross_entropy, net), data(8, 4))
    assert owner.seen == []
    assert owner.watch.seen == 0


def test_weights_and_random_states_are_those_of_a_bare_run() -> None:
    def run(*callbacks: Any) -> tuple[Any, Any]:
        module = Classifier()
        trainer(*callbacks).fit(module, data(16, 4, shuffle=True))
        return module.state_dict(), torch.get_rng_state()

    bare, state = seeded(run)
    watched, after = seeded(lambda: run(Owner()))
    assert all(torch.equal(bare[name], watched[name]) for name in bare)
    assert torch.equal(state, after)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind(error: type[BaseException] | None) -> None:
    loader = data(8, 4)

    def step(net: Any, batch: Any) -> Tensor:
        if error is not None:
            raise error
        return cross_entropy(net, batch)

    try:
        seen(step, loader)
    except (RuntimeError, SystemExit, KeyboardInterrupt):
        assert error is not None
    assert _get_current_function_mode_stack() == []
    assert type(loader) is DataLoader
    assert not {name for name in loader.__dict__ if "diag" in name}
