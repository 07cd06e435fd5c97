"""Loops that are not the plain one: manual optimisation, checkpointing, LBFGS and more."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import EVERY_STEP, Classifier, Net, all_monitors, data, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_diag import ActivationMonitor, GradientMonitor, LossMonitor, UpdateRatioLogger


class Gan(pl.LightningModule):
    """A discriminator that steps on every batch, a generator on every third."""

    def __init__(self, generator_every: int = 3) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.every = generator_every
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Step the players in turn, each with the other toggled off."""
        real = batch[0]
        optimizers: Any = self.optimizers()
        first, second = optimizers
        fake = self.generator(torch.randn(len(real), 4))
        if batch_idx % self.every == 0:
            with first.toggle_model():
                loss = functional.softplus(-self.critic(fake)).mean()
                first.zero_grad()
                self.manual_backward(loss)
                first.step()
        with second.toggle_model():
            loss = (
                functional.softplus(-self.critic(real))
                + functional.softplus(self.critic(fake.detach()))
            ).mean()
            second.zero_grad()
            self.manual_backward(loss)
            second.step()
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        """Return one optimizer for each player."""
        return [
            torch.optim.Adam(self.generator.parameters(), 1e-3),
            torch.optim.Adam(self.critic.parameters(), 1e-3),
        ]


def test_each_optimizer_has_its_own_counter_and_names() -> None:
    """P11, P35: a toggled-off network is not missing gradients."""
    trainer(*all_monitors(), max_epochs=3).fit(Gan(), data())
    found = history()
    assert [r.optimizer_steps for r in found.records()][-1] == (6, 18)
    assert found.places("gradient/total_norm") == ["optimizer0", "optimizer1"]
    generator = found.series("gradient/norm", "generator.0.weight")
    assert generator.steps == [0, 3, 6, 9, 12, 15]
    assert len(found.series("gradient/norm", "critic.0.weight").steps) == 18
    assert set(found.series("gradient/missing", "generator.0.weight").values) == {0.0}
    assert found.series("update/ratio", "generator.0.weight").steps == generator.steps
    assert len(found.series("loss/train").steps) == 18
    assert len(found.metrics()) > 10


def test_rare_optimizer_is_waited_for() -> None:
    """P35: looks at every fiftieth batch would never meet a generator that steps on other ones."""
    monitors = all_monitors(every_n_steps=10, max_overhead=1e9)
    trainer(*monitors, max_epochs=40).fit(Gan(generator_every=10), data(samples=80))
    late = [
        step for step in history().series("gradient/norm", "generator.0.weight").steps if step > 200
    ]
    assert len(late) >= 4


def test_gan_trains_as_without() -> None:
    """Do no harm, with manual optimisation too."""

    def run(callbacks: list[Any]) -> dict[str, Tensor]:
        def build() -> dict[str, Tensor]:
            module = Gan()
            trainer(*callbacks).fit(module, data())
            return module.state_dict()

        result: dict[str, Tensor] = seeded(build)
        return result

    bare, watched = run([]), run(all_monitors())
    assert all(torch.equal(bare[name], watched[name]) for name in bare)


class Checkpointed(nn.Module):
    """Recomputes its middle during backward."""

    def __init__(self, *, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(8, 16)
        self.block = nn.Sequential(nn.ReLU(), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        h = self.first(x)
        if self.reentrant is None:
            h = self.block(h)
        else:
            h = checkpoint(self.block, h, use_reentrant=self.reentrant)
        out: Tensor = self.head(h)
        return out


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_calls_count_once(reentrant: bool) -> None:
    """P18: the same numbers and names with activation checkpointing of both kinds."""
    for kind in (None, reentrant):
        net = seeded(partial(Checkpointed, reentrant=kind))
        trainer(*all_monitors(), max_epochs=1).fit(Classifier(net), data())
    from lightning_diag import History

    plain, recomputed = History.open("lightning_diag"), History.open("lightning_diag-1")
    for metric in ("activation/mean", "activation/std", "activation/variance_gain"):
        assert recomputed.places(metric) == plain.places(metric)
        for place in plain.places(metric):
            expected = plain.series(metric, place).values
            assert list(recomputed.series(metric, place).values) == pytest.approx(
                expected, rel=1e-5
            )
    assert plain.last("dead_relu/window_samples") == recomputed.last("dead_relu/window_samples")


def test_lbfgs_counts_one_step_a_batch() -> None:
    """Its closure, and with it Lightning's hook, runs many times within one step."""
    module = Classifier(Net(), lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4))
    trainer(*all_monitors(), max_epochs=1).fit(module, data())
    assert [record.optimizer_steps for record in history().records()][-1] == (6,)
    assert history().steps == [0, 1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_batches_that_return_no_loss_are_counted_and_have_none() -> None:
    """What was not observed is absent."""

    class Skips(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:  # type: ignore[override]
            return None if batch_idx == 2 else super().training_step(batch, batch_idx)

    trainer(LossMonitor(**EVERY_STEP), max_epochs=1).fit(Skips(), data())
    series = history().series("loss/train")
    seen = [step for step, loss in zip(*series, strict=True) if not math.isnan(loss)]
    assert seen == [0, 1, 3, 4, 5]


def test_epoch_cut_short_leaves_nothing_open() -> None:
    """A module may end an epoch from its own hook."""

    class Cut(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 3 else None

    trainer(*all_monitors(), max_epochs=2).fit(Cut(), data())
    assert history().steps == [0, 1, 2, 3, 4, 5]
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_run_of_five_steps_shows_data() -> None:
    """P38: at the defaults, whatever `log_every_n_steps`."""
    module = Classifier()
    trainer(GradientMonitor(), max_steps=5, log_every_n_steps=50).fit(module, data())
    assert history().steps == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"max_steps": 77, "max_epochs": -1}, 76),
        ({"max_epochs": 9}, 53),
        ({"max_epochs": 9, "accumulate_grad_batches": 4}, 17),
    ],
    ids=["max_steps", "max_epochs", "accumulated"],
)
def test_the_last_step_is_watched(options: dict[str, Any], last: int) -> None:
    """P38: the end of a run is what people ask about."""
    trainer(GradientMonitor(every_n_steps=1000), **options).fit(Classifier(), data())
    assert history().steps[-1] == last


def test_function_in_the_lightning_module_itself_has_a_place() -> None:
    """A call that no module makes has no module in its name."""

    class Functional(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return functional.cross_entropy(torch.tanh(self.net(x)), y)

    trainer(ActivationMonitor(**EVERY_STEP), max_epochs=1).fit(Functional(), data())
    assert "tanh#0" in history().places("activation/mean")
    assert "net.relu/relu#1" in history().places("activation/mean")


def test_optimizer_without_hooks_is_looked_at_after_the_batch() -> None:
    """Lightning takes any object that can step."""

    class Own:
        def __init__(self, parameters: Any) -> None:
            self.inner = torch.optim.SGD(parameters, 0.1)

        param_groups = property(lambda self: self.inner.param_groups)
        state = property(lambda self: self.inner.state)
        defaults = property(lambda self: self.inner.defaults)

        def step(self, closure: Any = None, **_: Any) -> Any:
            return self.inner.step(closure)

        def zero_grad(self, *_: Any, **__: Any) -> None:
            self.inner.zero_grad()

        def state_dict(self) -> Any:
            return self.inner.state_dict()

        def load_state_dict(self, state: Any) -> None:
            self.inner.load_state_dict(state)

    class Odd(Classifier):
        def configure_optimizers(self) -> Any:
            return Own(self.parameters())

    trainer(UpdateRatioLogger(**EVERY_STEP), max_epochs=1).fit(Odd(), data())
    assert len(history().series("update/ratio", "net.head.weight").steps) == 6


@pytest.mark.parametrize("late", [False, True], ids=["at once", "a step later"])
def test_numbers_that_arrive_late_belong_to_their_step(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the copy to the host is read one step later: the numbers must not change."""
    from lightning_diag.measure.tally import Pending

    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    monkeypatch.setattr(Pending, "asynchronous", late)
    trainer(*all_monitors(), max_epochs=3).fit(Scheduled(), data())
    found = history()
    assert found.steps == list(range(18))
    assert list(found.series("lr/value", "SGD/group0").values)[:4] == [1.0, 0.5, 0.25, 0.125]
    assert found.series("loss/train").steps == list(range(18))
    for _, (low, high, *counts) in found.lists("activation/histogram", "net/tanh#0"):
        assert -1 <= low < high <= 1
        assert sum(counts) == 8 * 16


def test_lazy_modules_are_known_by_their_shapes_once_they_have_some() -> None:
    """Their parameters have none yet when a fit without a sanity check begins."""
    net = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))
    monitors = all_monitors()
    trainer(*monitors, max_epochs=1).fit(Classifier(net), data())
    shapes = {name: known["shape"] for name, known in history().meta["parameters"].items()}
    assert shapes["net.0.weight"] == [16, 8]
    assert history().places("update/ratio") == list(shapes)
