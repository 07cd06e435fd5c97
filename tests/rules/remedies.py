"""The remedies of rules as their source has them, and small real trainings to try them on."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor, Finding
from lightning_diag.rules import Rule

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Makes other data of inputs and targets."""
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}


def remedy_texts(rule: type[Rule]) -> list[str]:
    """Return what the source of a rule says to do, without what is filled in.

    That is what it passes as `remedy`, and what stands in names and functions called like that.
    """
    tree = ast.parse(inspect.getsource(inspect.getmodule(rule) or rule))
    return ["".join(_strings(node)) for node in ast.walk(tree) if _is_remedy(node)]


def _is_remedy(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg == "remedy"
    if isinstance(node, ast.FunctionDef):
        return "remedy" in node.name
    if isinstance(node, ast.Assign):
        return "remed" in ast.unparse(node.targets[0]).lower()
    return isinstance(node, ast.AnnAssign) and "remed" in ast.unparse(node.target).lower()


def _strings(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def names_in(texts: list[str]) -> set[str]:
    """Return the names between backticks."""
    return {name for text in texts for name in re.findall(r"`([^`]+)`", text)}


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Return real handwritten digits, standardised."""
    found = load_digits()
    x = torch.tensor(found.data).float()
    return (x - x.mean(0)) / (x.std(0) + 0.1), torch.tensor(found.target)


def chain(
    activation: Callable[[], nn.Module] = nn.ReLU,
    layers: int = 3,
    width: int = 32,
    *,
    init: Callable[[Tensor], Any] | None = None,
    norm: Callable[[int], nn.Module] | None = None,
) -> Callable[[], nn.Module]:
    """Return what makes a net of equal hidden layers for the digits."""

    def make() -> nn.Module:
        modules: list[nn.Module] = []
        for i in range(layers):
            modules.append(nn.Linear(64 if i == 0 else width, width))
            modules += [norm(width)] if norm else []
            modules.append(activation())
        net = nn.Sequential(*modules, nn.Linear(width, 10))
        for module in net:
            if init is not None and isinstance(module, nn.Linear):
                init(module.weight)
                nn.init.zeros_(module.bias)
        return net

    return make


def sgd(lr: float, momentum: float = 0.9, **options: Any) -> Callable[[Any], Any]:
    """Return what makes an SGD."""
    return lambda parameters: torch.optim.SGD(parameters, lr, momentum, **options)


def adam(lr: float) -> Callable[[Any], Any]:
    """Return what makes an Adam."""
    return lambda parameters: torch.optim.Adam(parameters, lr)


def one_hot(size: float) -> Change:
    """Return what makes numbers of this size of the classes, to be regressed."""
    return lambda x, y: (x, size * nn.functional.one_hot(y, 10).float())


class Remedy(NamedTuple):
    """A sick training, and the same with one thing changed."""

    code: str
    """What is found in the first and not in the second."""
    name: str
    """The remedy: names as they stand between backticks, or words of the text."""
    sick: Training
    healthy: Training | Callable[[Training], Training]
    """The treated training, or what makes it of the sick one, once it has looked at that."""

    def treated(self) -> Training:
        """Return the treated training."""
        return self.healthy if isinstance(self.healthy, Training) else self.healthy(self.sick)


class Module(pl.LightningModule):
    """What is trained."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training_setting = training
        self.net = training.net()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss: Tensor = self.training_setting.loss(self.net(batch[0]), batch[1])
        return loss

    def configure_optimizers(self) -> Any:
        """Return the optimizer of what is to be trained."""
        return self.training_setting.optimizer(self.training_setting.trained(self.net))


class Validated(Module):
    """The same with a validation."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of a batch."""
        out = self.net(batch[0])
        self.log("val_loss", self.training_setting.loss(out, batch[1]))
        if not batch[1].is_floating_point():
            self.log("val_acc", (out.argmax(1) == batch[1]).float().mean())


@dataclass(frozen=True, eq=False)
class Training:
    """One small training on the digits, and what is unusual about it."""

    net: Callable[[], nn.Module] = field(default_factory=chain)
    optimizer: Callable[[Any], Any] = field(default_factory=lambda: sgd(0.05))
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    data: Change = lambda x, y: (x, y)
    held: Change | None = None
    trained: Callable[[nn.Module], Any] = lambda net: net.parameters()
    module: type[Module] = Module
    steps: int = 150
    samples: int = 1200
    batch_size: int = 48
    shuffle: bool = True
    sampler: Callable[[Tensor], Any] | None = None
    workers: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], Sequence[Any]] = tuple
    seed: int = 0

    def loader(self, *, held: bool) -> DataLoader[Any]:
        """Return the training data, or those that are held back."""
        x, y = digits()
        part = slice(1400, None) if held else slice(0, self.samples)
        change = (self.held or self.data) if held else self.data
        x, y = change(x[part], y[part])
        sampler = self.sampler(y) if self.sampler and not held else None
        return DataLoader(
            TensorDataset(x, y),
            self.batch_size,
            shuffle=self.shuffle and not held and sampler is None,
            sampler=sampler,
            num_workers=0 if held else self.workers,
            drop_last=not held,
        )


def findings(training: Training) -> dict[str, Finding]:
    """Train; return what was found and has not passed, by code."""
    torch.manual_seed(training.seed)
    doctor = Doctor(every_n_steps=1, max_overhead=1e9, startup_seconds=1e9)
    options = {**QUIET, "max_steps": training.steps, "max_epochs": -1, **training.options}
    trainer = pl.Trainer(callbacks=[doctor, *training.callbacks()], **options)
    validation: dict[str, Any] = (
        {"val_dataloaders": training.loader(held=True)} if training.held else {}
    )
    module = (Validated if training.held else training.module)(training)
    trainer.fit(module, training.loader(held=False), **validation)
    return {finding.code: finding for finding in doctor.findings if finding.until is None}
