"""Arguments of the callbacks: refused in one sentence when bad, and told in YAML files (P43)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from cli_config import callbacks
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_diag import LinearScalingLR, WarmupLR
from lightning_diag._compat import MisconfigurationException
from lr.fits import BASE, Ruler, data, trainer

CONFIG = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.WarmupLR
      init_args: {steps: 500, start_factor: 0.1, shape: cosine, parameters: [head, "net.0.*"]}
    - class_path: lightning_diag.WarmupLR
      init_args: {epochs: 1.5, start_momentum: 0.8, hold: batch-norm}
    - class_path: lightning_diag.WarmupLR
      init_args: {steps: auto, parameters: backbone}
    - class_path: lightning_diag.LinearScalingLR
      init_args: {base_batch_size: 128, rule: sqrt, warmup_epochs: 5, critical_batch_size: 1000}
"""


def built(config: str, *arguments: str) -> list[Any]:
    found = callbacks(config, *arguments)
    return [each for each in found if isinstance(each, (WarmupLR, LinearScalingLR))]


@pytest.mark.usefixtures("alone")
def test_callbacks_survive_a_round_trip_through_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        built(CONFIG, "--print_config")
    printed = capsys.readouterr().out
    given, again = built(CONFIG), built(printed)
    assert [vars(each) for each in given] == [vars(each) for each in again]
    arguments = [each["init_args"] for each in yaml.safe_load(printed)["trainer"]["callbacks"]]
    assert arguments[0]["shape"] == "cosine"
    assert arguments[1]["hold"] == "batch-norm"
    assert arguments[2]["steps"] == "auto"
    assert (given[3].rule, given[3].warmup_epochs) == ("sqrt", 5)
    assert given[2].is_auto


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "`steps` must be a whole number of at least 0, got -1"),
        ({"steps": "some"}, "`steps` must be a number of optimizer steps or 'auto', got 'some'"),
        ({"steps": 1, "epochs": 1.0}, "one length, got `steps` and `epochs`"),
        ({"epochs": 0.0}, "`epochs` must be above 0, got 0.0"),
        ({"fraction": 1.5}, "`fraction` must be above 0 and at most 1, got 1.5"),
        ({"start_factor": 1.5}, "`start_factor` must be from 0 to 1, got 1.5"),
        ({"start_factor": 0, "shape": "exponential"}, "`start_factor` must be above 0"),
        ({"shape": "square"}, "`shape` must be one of linear, cosine, exponential, constant"),
        ({"start_momentum": 1.0}, "`start_momentum` must be from 0 to below 1, got 1.0"),
        ({"hold": -1}, "`hold` must be a whole number of at least 0, got -1"),
        ({"hold": "bn"}, "`hold` must be a number of optimizer steps or 'batch-norm', got 'bn'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupLR(**arguments)


class Endless(IterableDataset[torch.Tensor]):
    """Does not say how long it is."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.zeros(8, 1))


class Manual(Ruler):
    """Decides by itself when to step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.step()


@pytest.mark.parametrize("argument", ["epochs", "fraction"])
def test_a_length_that_nobody_knows_is_asked_for(argument: str) -> None:
    """P14: steps are not guessed."""
    length: dict[str, Any] = {argument: 1.0}
    callback = WarmupLR(**length)
    with pytest.raises(MisconfigurationException, match=f"`{argument}` cannot .* data is unknown"):
        trainer([callback], max_epochs=1).fit(Ruler(), DataLoader(Endless(), 2))
    with pytest.raises(MisconfigurationException, match=f"`{argument}` .* manual optimisation"):
        trainer([callback], max_epochs=1).fit(Manual(), data(4))


def test_a_fraction_of_a_training_without_end_is_asked_for() -> None:
    with pytest.raises(MisconfigurationException, match="`fraction` needs a training that ends"):
        trainer([WarmupLR(fraction=0.1)], max_epochs=-1).fit(Ruler(), data(4))


def test_a_fraction_of_so_many_steps_needs_no_length_of_the_data() -> None:
    module = Ruler()
    callback = WarmupLR(fraction=0.5, start_factor=0.0)
    trainer([callback], max_steps=4).fit(module, DataLoader(Endless(), 2))
    assert module.logged_in_training == pytest.approx([0.0, BASE / 2, BASE, BASE])


def test_an_accumulation_that_is_scheduled_is_counted_in() -> None:
    from pytorch_lightning.callbacks import GradientAccumulationScheduler

    module = Ruler()
    callbacks = [GradientAccumulationScheduler({1: 4}), WarmupLR(epochs=2, start_factor=0.0)]
    trainer(callbacks, max_epochs=3).fit(module, data(4))
    # four steps in the first epoch and one in the second
    expected = [0, 0.2, 0.4, 0.6, *[0.8] * 4, *[1.0] * 4]
    assert module.logged_in_training == pytest.approx([BASE * factor for factor in expected])


def test_without_a_length_sgd_is_asked_for_one() -> None:
    with pytest.raises(MisconfigurationException, match="Adam family, which SGD is not"):
        trainer([WarmupLR()], max_epochs=1).fit(Ruler(), data(4))


def test_momentum_is_asked_of_optimizers_that_have_one() -> None:
    class Adagrad(Ruler):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adagrad(self.parameters())

    with pytest.raises(MisconfigurationException, match="which Adagrad has not"):
        trainer([WarmupLR(4, start_momentum=0.5)], max_epochs=1).fit(Adagrad(), data(4))


def test_groups_are_chosen_by_their_names() -> None:
    class Named(Ruler):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.zeros(1, dtype=torch.float64))
            self.rates: list[list[float]] = []

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            optimizer: Any = self.optimizers()
            self.rates.append([group["lr"] for group in optimizer.param_groups])
            return self.weight.sum() + self.other.sum()

        def configure_optimizers(self) -> Any:
            groups = [
                {"params": [self.weight], "name": "body"},
                {"params": [self.other], "name": "head"},
            ]
            return torch.optim.SGD(groups, lr=BASE)

    for pattern in ("head", ["he*"], "other", "SGD/group1", "optimizer0/group1"):
        module = Named()
        callback = WarmupLR(2, start_factor=0.5, parameters=pattern)
        trainer([callback], max_epochs=1).fit(module, data(4))
        assert module.rates == [[BASE, BASE * f] for f in (0.5, 0.75, 1.0, 1.0)]
