"""For each check a module and data with the problem that it looks for: one line each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from checks import functions
from checks import sick_cost as cost
from checks import sick_data as data
from checks import sick_outputs as outputs
from checks.subjects import Pair, Plain, labels, mlp, numbers, table


def changed(change: Callable[[Any], object]) -> Callable[[], Pair]:
    """Return a healthy classifier that something was done to."""

    def make() -> Pair:
        module = Plain(mlp())
        change(module)
        return module, table()

    return make


class Partly(Plain):
    """Gives its optimizer all parameters but one bias."""

    def configure_optimizers(self) -> Any:
        """Leave the first bias out."""
        kept = [p for name, p in self.named_parameters() if name != "net.0.bias"]
        return torch.optim.Adam(kept, lr=1e-3)


class Detached(Plain):
    """Cuts its first layers off."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits that only the last layer is trained by."""
        out: Tensor = self.net[4](self.net[:4](x).detach())
        return out


class Twice(Plain):
    """Lists the last layer's bias twice."""

    def configure_optimizers(self) -> Any:
        """Add it again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.optim.SGD([*self.parameters(), self.net[4].bias], lr=1e-3)


def _evaluated(module: Any) -> None:
    module.net.insert(2, nn.Dropout(0.5))
    module.net.eval()


def _undropped(module: Any) -> None:
    module.dropout = nn.Dropout(0.5)


def _repeated(module: Any) -> None:
    layer = nn.Linear(16, 16)
    module.net = nn.Sequential(nn.Linear(8, 16), *[layer] * 3, nn.Linear(16, 3))


def _decayed(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, weight_decay=0.1)


def _loud(module: Any) -> None:
    nn.init.normal_(module.net[4].weight, std=30.0)


def _constant(module: Any) -> None:
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.1)


def _off_scale(module: Any) -> None:
    nn.init.normal_(module.net[2].weight, mean=100.0, std=10.0)


def chain(activation: Callable[[], nn.Module], depth: int, gain: float | None = None) -> Any:
    """Return that many hidden layers, with PyTorch's own weights or those of a gain."""
    layers: list[nn.Module] = [nn.Linear(8, 16)]
    for _ in range(depth - 1):
        layers += [activation(), nn.Linear(16, 16)]
    for layer in layers:
        if gain is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, activation(), nn.Linear(16, 3))


def _sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1)


SICK: dict[str, Callable[[], Pair]] = {
    "parameter-not-in-optimizer": lambda: (Partly(mlp()), table()),
    "nothing-to-train": changed(lambda module: module.requires_grad_(False)),
    "parameter-held-twice": lambda: (Twice(mlp()), table()),
    "missing-gradient": lambda: (Detached(mlp()), table()),
    "eval-mode-with-trainable-parameters": changed(_evaluated),
    "uncalled-module": changed(_undropped),
    "shared-layer": changed(_repeated),
    "initial-loss": changed(_loud),
    "symmetric-init": changed(_constant),
    "init-scale": changed(_off_scale),
    "collapsed-activation": lambda: (Plain(chain(nn.GELU, 10), optimizer=_sgd), table()),
    "exploding-gradient": lambda: (Plain(chain(nn.ReLU, 14, 3.0)), table()),
    "broken-self-normalisation": lambda: (Plain(chain(nn.SELU, 4)), table()),
    "decayed-norm-or-bias": lambda: (Plain(mlp(), optimizer=_decayed), table()),
    "short-memory": lambda: (cost.Hungry(mlp()), table()),
    "learning-rate-too-high": cost.overstepping,
    "long-epoch": cost.days,
    "slow-dataloader": cost.waiting,
    "bias-before-norm": changed(lambda module: module.net.insert(1, nn.BatchNorm1d(16))),
    "unnormalised-input": lambda: data.train_on(numbers(64, 8) + 20),
    "channels-last-input": data.rows_for_channels,
    "train-validation-shift": data.shifted,
    "leaked-sample": data.leaked,
    "double-precision-input": lambda: data.train_on(numbers(64, 8).double()),
    "label-out-of-range": lambda: data.train_on(numbers(64, 8), labels() + 1),
    "unseen-class": lambda: data.by_class(data.counted(50, 50), data.counted(20, 0, 20)),
    "unstratified-split": lambda: data.by_class(data.counted(80, 20), data.counted(20, 80)),
    "class-imbalance": lambda: data.train_on(numbers(404, 8), data.counted(400, 4)),
    "unshuffled-training": lambda: data.train_on(
        numbers(64, 8), labels().sort().values, shuffle=False
    ),
    "lost-sample": lambda: data.train_on(numbers(64, 8), batch_size=128, drop_last=True),
    "repeated-sample": lambda: data.train_on(numbers(64, 8), shuffle=False, sampler=data.Stuck()),
    "repeated-augmentation": data.noisy,
    "nondeterministic-loader": lambda: (Plain(mlp()), DataLoader(data.Unseeded(), 16)),
    "constant-feature": data.half_constant,
    "duplicate-feature": data.twice,
    "batch-mixing": outputs.time_first,
    "batch-norm-gap": outputs.pairs,
    "last-batch-of-one": outputs.odd_one_out,
    "output-activation-mismatch": lambda: outputs.soft(nn.CrossEntropyLoss()),
    "loss-mismatch": outputs.column,
    "uncleared-gradient": lambda: (outputs.Manual(clears=False), table()),
    "regularisation-lowers-loss": lambda: (functions.Penalised(-0.01), table()),
    "wrong-gradient": lambda: (Plain(functions.Through(functions.Halved.apply)), table()),
    "cannot-overfit": lambda: (Plain(mlp(), optimizer=functions.idle), table()),
}
"""By the check's code."""
