"""What a real fit's loss calls are given, against a slow, obvious reference."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from runs import EVERY_STEP, Classifier, all_monitors, data, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional

from lightning_diag import OutputMonitor
from lightning_diag.history import History

close = pytest.approx


class Noted(Classifier):
    """Keeps predictions, targets and losses of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()
        self.seen: list[tuple[Tensor, Tensor, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        loss: Tensor = self.criterion(out, y)
        self.seen.append((out.detach().double().clone(), y.clone(), loss.item()))
        return loss


def noted(factor: int = 1, **options: Any) -> tuple[Noted, History]:
    module = Noted()
    fit = trainer(OutputMonitor(**EVERY_STEP), accumulate_grad_batches=factor, **options)
    seeded(lambda: fit.fit(module, data(samples=320)))
    return module, history()


@pytest.mark.parametrize("factor", [1, 4])
def test_numbers_equal_the_reference_whatever_the_accumulation(factor: int) -> None:
    """P10: pooled over the micro-batches of a step."""
    module, watched = noted(factor)
    place = "criterion/cross_entropy#0"
    steps = watched.series("output/loss", place).steps
    assert steps[:4] == [0, 1, 2, 3]
    for step in steps:
        part = module.seen[step * factor : (step + 1) * factor]
        out, y = torch.cat([o for o, _, _ in part]), torch.cat([y for _, y, _ in part])
        expected = {
            "output/mean": float(out.mean()),
            "output/std": float(out.std(correction=0)),
            "output/min": float(out.min()),
            "output/max": float(out.max()),
            "output/loss": sum(loss for _, _, loss in part) / factor,
            "output/accuracy": float((out.argmax(1) == y).double().mean()),
        }
        for metric, value in expected.items():
            series = watched.series(metric, place)
            found = dict(zip(series.steps, series.values, strict=True))
            assert found[step] == close(value, rel=1e-5), (metric, step)
        lists = dict(watched.lists("class/target_count", place))
        assert lists[step] == torch.bincount(y, minlength=3).double().tolist()


@pytest.mark.parametrize("factor", [1, 4])
def test_confused_classes_are_those_of_the_last_eight_looks(factor: int) -> None:
    """P29: pooled over micro-batches and looks, then told in one list."""
    module, watched = noted(factor, max_epochs=2 * factor)
    place = "criterion/cross_entropy#0"
    steps = watched.series("output/loss", place).steps
    told = watched.lists("class/confusions", place)
    assert [step for step, _ in told] == steps[7::8]
    totals = dict.fromkeys(product(range(3), range(3)), 0)
    for step in steps[:8]:
        for out, y, _ in module.seen[step * factor : (step + 1) * factor]:
            for pair in zip(y.tolist(), out.argmax(1).tolist(), strict=True):
                totals[pair] += 1
    wrong = {pair: number for pair, number in totals.items() if pair[0] != pair[1] and number}
    first = told[0][1]
    assert {
        (t, p): n for t, p, n in zip(first[::3], first[1::3], first[2::3], strict=True)
    } == wrong
    assert first[2::3] == sorted(first[2::3], reverse=True)


def test_looks_are_at_the_first_steps_and_then_sixteen_apart() -> None:
    """Watching every step costs a sixteenth of a look each."""
    _, watched = noted()
    steps = watched.series("output/std", "criterion/cross_entropy#0").steps
    assert steps == [0, 1, 2, 3, 19, 35, 51, 67]
    assert len(watched) == 80


def test_each_call_is_described_when_it_is_first_seen() -> None:
    class Two(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if self.global_step < 2:
                return loss
            out = torch.sigmoid(self.net(batch[0])[:, 0])
            return loss + functional.mse_loss(out, batch[1].float(), reduction="sum")

    trainer(OutputMonitor(**EVERY_STEP)).fit(Two(), data())
    losses = history().meta["losses"]
    assert list(losses) == ["cross_entropy#0", "mse_loss#0"]
    first, second = losses.values()
    assert (first["classes"], first["activation"], first["first"]["step"]) == (3, "", 0)
    assert (second["activation"], second["reduction"], second["first"]["step"]) == (
        "sigmoid",
        "sum",
        2,
    )
    assert second["input_shape"] == second["target_shape"] == [8]


def test_validation_and_metrics_without_gradients_do_not_count() -> None:
    class Both(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                functional.mse_loss(self.net(batch[0])[:, 0], batch[1].float())
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            functional.l1_loss(self.net(batch[0])[:, 0], batch[1].float())

    trainer(OutputMonitor(**EVERY_STEP)).fit(Both(), data(), data())
    assert history().places("output/loss") == ["cross_entropy#0"]


def test_a_loss_by_hand_leaves_nothing_behind() -> None:
    """P20: absent, not 0."""

    class ByHand(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            loss: Tensor = -self.net(x).log_softmax(1)[torch.arange(len(y)), y].mean()
            return loss

    trainer(*all_monitors()).fit(ByHand(), data())
    watched = history()
    assert not [m for m in watched.metrics() if m.startswith(("output/", "target/", "class/"))]
    assert "losses" not in watched.meta


def test_what_is_known_of_classes_outlives_a_checkpoint() -> None:
    monitor = OutputMonitor(**EVERY_STEP)
    fit = trainer(monitor)
    fit.fit(Classifier(), data())
    state = monitor.observer_state()
    assert sum(state["pools"]["cross_entropy#0"]["targets"]) > 8
    other = OutputMonitor()
    other.load_observer_state(state)
    assert other.observer_state() == state
    assert state["confused"]["cross_entropy#0"]["looks"] == 4


def test_a_resumed_run_keeps_what_was_first(tmp_path: Any) -> None:
    """The first loss is that of the run, not of its second half."""
    first = trainer(OutputMonitor(**EVERY_STEP), max_epochs=1)
    first.fit(Classifier(), data())
    before = history().meta["losses"]["cross_entropy#0"]["first"]
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = trainer(OutputMonitor(**EVERY_STEP), max_epochs=2)
    again.fit(Classifier(), data(), ckpt_path=tmp_path / "half.ckpt")
    resumed = History.open("lightning_diag")
    assert resumed.steps[-1] == 11
    assert resumed.meta["losses"]["cross_entropy#0"]["first"] == before
