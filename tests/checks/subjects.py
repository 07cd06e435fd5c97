"""Small healthy modules of many kinds, and their data, for checks to be silent on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

Pair = tuple[Any, Any]
"""A module, and training's loaders or a pair of loaders."""
Loss = Callable[[Tensor, Tensor], Tensor]
SAMPLES = 64


def numbers(*shape: int, seed: int = 7) -> Tensor:
    """Return standard normal numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(classes: int = 3, samples: int = SAMPLES) -> Tensor:
    """Return balanced labels in no particular order."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(3))
    return order % classes


def loader(*tensors: Tensor, batch_size: int = 16, **options: Any) -> DataLoader[Any]:
    """Return a shuffled loader of tensors."""
    return DataLoader(TensorDataset(*tensors), batch_size, **{"shuffle": True, **options})


def table(classes: int = 3) -> DataLoader[Any]:
    """Return 8 features and classes that depend on them."""
    x = numbers(SAMPLES, 8)
    return loader(x, x[:, :classes].argmax(1))


def pictures() -> DataLoader[Any]:
    """Return 8 x 8 pictures of 3 channels and 3 classes."""
    return loader(numbers(SAMPLES, 3, 8, 8), labels())


class Plain(pl.LightningModule):
    """A network, a loss and an optimizer.

    Args:
        net: The network.
        loss: Of its output and the target.
        optimizer: Made of the parameters; Adam by default.
        log: Whether to log the loss, as most do.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss = functional.cross_entropy,
        optimizer: Callable[[Iterable[nn.Parameter]], Any] | None = None,
    ) -> None:
        super().__init__()
        self.net: Any = net
        self.loss = loss
        self.make_optimizer = optimizer or (lambda p: torch.optim.Adam(p, lr=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch of inputs and targets, and log it."""
        x, y = batch
        loss = self.loss(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Return the optimizer."""
        return self.make_optimizer(self.parameters())


def mlp(classes: int = 3) -> nn.Sequential:
    """Return two hidden layers."""
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, classes)
    )


class Block(nn.Module):
    """A residual block with batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and what the block adds."""
        return functional.relu(x + self.body(x))


def resnet() -> nn.Sequential:
    """Return two residual blocks."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(8),
        Block(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def cnn() -> nn.Sequential:
    """Return convolutions with batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(256, 3),
    )


class Recurrent(nn.Module):
    """A GRU and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the last state."""
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


class Tokens(nn.Module):
    """A small transformer over words, whose embedding is its output layer as well."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        nn.init.normal_(self.embedding.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 20, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for each word: ``(batch, time) -> (batch, words, time)``."""
        out: Tensor = self.head(self.encoder(self.embedding(x))).transpose(1, 2)
        return out


def words() -> DataLoader[Any]:
    """Return sequences of 6 of 20 words, and the word after each."""
    drawn = torch.randint(0, 20, (SAMPLES, 7), generator=torch.Generator().manual_seed(2))
    return loader(drawn[:, :-1], drawn[:, 1:])


class Dictionaries(Plain):
    """Takes batches that are dictionaries, and returns one."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss beside the predictions."""
        logits = self(batch["image"])
        loss = functional.cross_entropy(logits, batch["label"])
        self.log_dict({"loss": loss, "size": float(len(logits))})
        return {"loss": loss, "logits": logits.detach()}


def as_dictionaries(samples: list[Any]) -> dict[str, Tensor]:
    """Collate samples to a dictionary."""
    x, y = zip(*samples, strict=True)
    return {"image": torch.stack(x), "label": torch.stack(y)}


class Stream(IterableDataset[Any]):
    """Samples that can only be iterated; the order is drawn."""

    def __iter__(self) -> Iterator[Any]:
        """Yield samples of 8 features and 3 classes."""
        for _ in range(SAMPLES):
            x = torch.randn(8)
            yield x, x[:3].argmax()


class Adversaries(pl.LightningModule):
    """A generator against a judge, by manual optimisation."""

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.every = every
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.judge = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train the judge, and every few batches the generator."""
        real = batch[0]
        optimizers: Any = self.optimizers()
        first, second = optimizers
        made = self.generator(torch.randn(len(real), 4, device=self.device))
        self.toggle_optimizer(second)
        loss = self._verdict(real, 1.0) + self._verdict(made.detach(), 0.0)
        self.manual_backward(loss)
        second.step()
        second.zero_grad()
        self.untoggle_optimizer(second)
        self.log("judge", loss)
        if batch_idx % self.every == self.every - 1:
            self.toggle_optimizer(first)
            self.manual_backward(self._verdict(made, 1.0))
            self.clip_gradients(first, 1.0, "norm")
            first.step()
            first.zero_grad()
            self.untoggle_optimizer(first)

    def _verdict(self, x: Tensor, truth: float) -> Tensor:
        scores = self.judge(x)
        return functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, truth))

    def configure_optimizers(self) -> Any:
        """Return an optimizer for each player."""
        players = (self.generator, self.judge)
        return [torch.optim.Adam(p.parameters(), lr=2e-4, betas=(0.5, 0.99)) for p in players]


class Backbone(Plain):
    """A frozen backbone in evaluation mode, and a new head that is trained alone."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU()))
        self.net.requires_grad_(False)
        self.net.eval()
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits on frozen features."""
        out: Tensor = self.head(self.net(x))
        return out

    def configure_optimizers(self) -> Any:
        """Return an optimizer of the head alone."""
        return torch.optim.Adam(self.head.parameters(), lr=1e-3)


class Scheduled(Plain):
    """Asks its trainer for much of what modules ask for."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss, with a weight that depends on the epoch."""
        weight = 1.0 + 0.0 * (self.current_epoch / max(1, self.trainer.max_epochs or 1))
        assert self.trainer.is_global_zero
        assert self.trainer.global_step == self.global_step
        assert not self.trainer.sanity_checking
        logger: Any = self.logger
        logger.experiment.add_scalar("x", 1.0, self.global_step)
        schedule: Any = self.lr_schedulers()
        self.log("lr", schedule.get_last_lr()[0])
        return weight * super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        """Return a schedule as long as the training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=max(steps, 2))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Built(Plain):
    """Makes its layers in `configure_model`."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def configure_model(self) -> None:
        """Make the network, once."""
        if isinstance(self.net, nn.Identity):
            self.net = mlp()


def autoencoder() -> nn.Sequential:
    """Return a network through two numbers."""
    return nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2), nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 8)
    )


def _flat(loss: Loss) -> Loss:
    return lambda x, y: loss(x.squeeze(1), y)


def _copies() -> DataLoader[Any]:
    x = numbers(SAMPLES, 8)
    return loader(x, x)


def _regression() -> DataLoader[Any]:
    x = numbers(SAMPLES, 8)
    y = x[:, 0] + 0.5 * x[:, 1]
    return loader(x, (y - y.mean()) / y.std())


def _yes_or_no() -> DataLoader[Any]:
    x = numbers(SAMPLES, 8)
    return loader(x, (x[:, 0] > 0).float())


def _dictionaries() -> DataLoader[Any]:
    return loader(numbers(SAMPLES, 3, 8, 8), labels(), collate_fn=as_dictionaries)


def _smoothed() -> Loss:
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)


HEALTHY: dict[str, Callable[[], Pair]] = {
    "mlp": lambda: (Plain(mlp()), table()),
    "sgd": lambda: (Plain(mlp(), optimizer=lambda p: torch.optim.SGD(p, 0.1, 0.9)), table()),
    "smoothed": lambda: (Plain(mlp(), _smoothed()), table()),
    "hinge": lambda: (Plain(mlp(), functional.multi_margin_loss), table()),
    "yes or no": lambda: (
        Plain(mlp(1), _flat(functional.binary_cross_entropy_with_logits)),
        _yes_or_no(),
    ),
    "cnn": lambda: (Plain(cnn()), pictures()),
    "resnet": lambda: (Plain(resnet()), pictures()),
    "gru": lambda: (Plain(Recurrent()), loader(numbers(SAMPLES, 5, 8), labels())),
    "transformer": lambda: (Plain(Tokens(tied=False)), words()),
    "tied weights": lambda: (Plain(Tokens()), words()),
    "autoencoder": lambda: (Plain(autoencoder(), functional.mse_loss), _copies()),
    "regression": lambda: (Plain(mlp(1), _flat(functional.mse_loss)), _regression()),
    "huber": lambda: (Plain(mlp(1), _flat(functional.huber_loss)), _regression()),
    "dictionaries": lambda: (Dictionaries(cnn()), _dictionaries()),
    "stream": lambda: (Plain(mlp()), DataLoader(Stream(), 16)),
    "gan": lambda: (Adversaries(), loader(numbers(SAMPLES, 8))),
    "gan of unlike pace": lambda: (Adversaries(every=5), loader(numbers(SAMPLES, 8))),
    "frozen backbone": lambda: (Backbone(), table()),
    "scheduled": lambda: (Scheduled(mlp()), table()),
    "configure_model": lambda: (Built(), table()),
    "two loaders": lambda: (TwoLoaders(mlp()), {"a": table(), "b": table()}),
}
"""A module and its data by what is special about it. Nothing may be found in any of them."""


class TwoLoaders(Plain):
    """Takes a batch of each of two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the sum of both losses."""
        return super().training_step(batch["a"], batch_idx) + self.loss(
            self(batch["b"][0]), batch["b"][1]
        )


def made(pair: Callable[[], Pair], seed: int = 0) -> Pair:
    """Make a module and its data with a seed."""
    torch.manual_seed(seed)
    return pair()
