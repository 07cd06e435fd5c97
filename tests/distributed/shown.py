"""Scenarios: pictures and worst examples of two ranks, of which one may leave a loss out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from distributed.training import BATCH, Net, Seat, fit, keeper
from lightning_diag import FilterMonitor, WorstExamples

STEPS = 20


class Seeing(Net):
    """A convolution of pictures."""

    moody = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 16, 3)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        """Return a cross-entropy, or on a moody rank at times something else."""
        x, y, _ = batch
        out = self.head(torch.tanh(self.conv(x)).flatten(1))
        if self.moody and self.global_rank == 1 and batch_idx % 3:
            return out.square().mean()
        return functional.cross_entropy(out, y)

    def configure_optimizers(self) -> Any:
        """Train what is used."""
        parameters = [*self.conv.parameters(), *self.head.parameters()]
        return torch.optim.SGD(parameters, 0.1)


class Indexed(TensorDataset):
    """Tells where its samples are from."""

    def __getitem__(self, i: Any) -> Any:
        """Return a mapping."""
        x, y, index = self.tensors
        return x[i], y[i], {"index": index[i]}


def _data(seat: Seat) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(8)
    count = STEPS * BATCH
    x = torch.randn(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (count,), generator=generator)
    parts = (x, y, torch.arange(count))
    shared = (seat.share_of(part.view(STEPS, BATCH, *part.shape[1:])) for part in parts)
    return DataLoader(Indexed(*shared), batch_size=BATCH // seat.ranks)


def _fit(seat: Seat, net: Seeing, **options: Any) -> dict[str, Any]:
    keep = keeper(every_n_steps=1)
    if seat.ranks > 1:
        options["strategy"] = "ddp_find_unused_parameters_true"
    result = fit(
        seat,
        net,
        _data(seat),
        keep=keep,
        callbacks=[FilterMonitor(), WorstExamples()],
        precision="64-true",
        **options,
    )
    names = ("filter/pixels", "example/worst")
    return {**result, "shown": {name: keep.history.shown(name) for name in names}}


def shared(seat: Seat) -> dict[str, Any]:
    """Train on halves of each batch."""
    return _fit(seat, Seeing())


def accumulated(seat: Seat) -> dict[str, Any]:
    """The same, four batches a step."""
    return _fit(seat, Seeing(), accumulate_grad_batches=4)


def moody(seat: Seat) -> dict[str, Any]:
    """Train with a rank that leaves the loss out now and then."""
    net = Seeing()
    net.moody = True
    return _fit(seat, net)


TOGETHER: list[Callable[[Seat], Any]] = [shared, accumulated, moody]
ALONE: list[Callable[[Seat], Any]] = [shared, accumulated]
