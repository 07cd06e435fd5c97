"""First-layer filters of a real fit: which, when, and what is kept of them (W9)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from runs import EVERY_STEP, Classifier, seeded, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import FilterMonitor, History
from lightning_diag.measure.filters import mean_smoothness


def images(*shape: int, samples: int = 48, batch_size: int = 8) -> DataLoader[Any]:
    """Return smooth pictures, bright above or below."""
    generator = torch.Generator().manual_seed(3)
    height, width = (8, 8) if len(shape) == 1 else shape[-2:]
    y = torch.randint(3, (samples,), generator=generator)
    ramp = torch.linspace(-1, 1, height * width).reshape(height, width)
    x = ramp * (y[:, None, None] - 1.0) + 0.1 * torch.randn(samples, 1, 1, generator=generator)
    channels = shape[0] if len(shape) == 3 else 1
    x = x[:, None].repeat(1, channels, 1, 1) + 0.05 * torch.randn(
        samples, channels, height, width, generator=generator
    )
    return DataLoader(TensorDataset(x.reshape(samples, *shape), y), batch_size)


def watched(net: nn.Module, loader: DataLoader[Any], *callbacks: Any, **options: Any) -> History:
    def run() -> None:
        fit = trainer(FilterMonitor(**EVERY_STEP), *callbacks, **options)
        fit.fit(Classifier(net, lambda p: torch.optim.SGD(p, 0.1)), loader)

    seeded(run)
    return History.open("lightning_diag")


def dense(inputs: int, outputs: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, 3))


def conv(channels: int, filters: int = 4, kernel: int = 3, **options: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel, **options), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )


class Copies(pl.Callback):
    """Copies the first weight before each optimizer step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        weight = next(p for p in pl_module.parameters() if p.dim() > 1)
        self.weights.append(weight.detach().double().clone())


@pytest.mark.parametrize("factor", [1, 4])
def test_pictures_are_the_weights_before_the_step_whatever_the_accumulation(factor: int) -> None:
    """P10: and so is their smoothness."""
    copies = Copies()
    history = watched(
        conv(3), images(3, 8, 8, samples=96), copies, max_epochs=4, accumulate_grad_batches=factor
    )
    steps, values = history.series("filter/smoothness", "net.0.weight")
    assert (steps[:3], steps[-1]) == ([0, 4, 8], 48 // factor - 1)
    expected = [mean_smoothness(copies.weights[step]) for step in steps]
    assert values == pytest.approx(expected, rel=1e-5)
    pieces = history.shown("filter/pixels")["net.0.weight"]
    assert [step for step, _ in pieces] == steps
    for step, content in pieces:
        assert (content["shape"], content["kernel"], content["filters"]) == (
            [4, 3, 3, 3],
            [3, 3],
            4,
        )
        raw = np.frombuffer(base64.b64decode(content["pixels"]), np.uint8).reshape(4, 3, 3, 3)
        weights = (raw.astype(float) - 127.5) / 127.5 * content["limit"]
        error = np.abs(weights - copies.weights[step].movedim(1, -1).numpy()).max()
        assert error <= 0.501 * content["limit"] / 127.5


def test_a_long_run_is_looked_at_ever_more_rarely_and_on_its_last_step() -> None:
    history = watched(dense(64), images(64, samples=16), max_epochs=150)
    steps = history.series("filter/smoothness", "net.0.weight").steps
    gaps = [b - a for a, b in pairwise(steps[:-1])]
    assert gaps == [max(4, step // 8) for step in steps[:-2]]
    assert steps[-1] == 299
    kept = [step for step, _ in history.shown("filter/pixels")["net.0.weight"]]
    assert len(kept) == 16
    assert (kept[0], kept[-1]) == (0, 299)


@pytest.mark.parametrize(
    ("net", "shape", "place", "expected"),
    [
        (lambda: conv(1), (1, 8, 8), "net.0.weight", [4, 3, 3, 1]),
        (lambda: conv(2), (2, 8, 8), "net.0.weight", [4, 3, 3, 1]),
        (lambda: conv(3, groups=3, filters=6), (3, 8, 8), "net.0.weight", [6, 3, 3, 1]),
        (lambda: dense(64), (64,), "net.0.weight", [6, 8, 8, 1]),
        (lambda: dense(64, 100), (64,), "net.0.weight", [64, 8, 8, 1]),
        (
            lambda: nn.Sequential(nn.Flatten(), dense(192)),
            (3, 8, 8),
            "net.1.0.weight",
            [6, 8, 8, 3],
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), dense(80)),
            (1, 8, 10),
            "net.1.0.weight",
            [6, 8, 10, 1],
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), dense(4096)),
            (1, 64, 64),
            "net.1.0.weight",
            [6, 32, 32, 1],
        ),
    ],
    ids=["grey", "two channels", "groups", "flat", "many", "colour", "oblong", "large"],
)
def test_the_first_layer_is_shown_whatever_it_takes(
    net: Callable[[], nn.Module], shape: tuple[int, ...], place: str, expected: list[int]
) -> None:
    shown = watched(net(), images(*shape), max_epochs=1).shown("filter/pixels")
    assert list(shown) == [place]
    assert shown[place][-1][1]["shape"] == expected


class Adversaries(nn.Module):
    """A generator that takes noise as large as a square, and what judges pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = dense(100, 10)
        self.judge = dense(64)

    def forward(self, x: Tensor) -> Tensor:
        """Return the judgement of real pictures."""
        out: Tensor = self.judge(x) + 0 * self.generator(torch.zeros(len(x), 100))
        return out


def test_a_layer_that_takes_no_picture_is_passed_over() -> None:
    """A latent of 100 numbers is no picture of 10 x 10."""
    shown = watched(Adversaries(), images(64), max_epochs=1).shown("filter/pixels")
    assert list(shown) == ["net.judge.0.weight"]


def table() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(48, 64, generator=generator) * torch.rand(64, generator=generator) * 9
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8)


def tokens() -> DataLoader[Any]:
    x = torch.randint(9, (48, 64), generator=torch.Generator().manual_seed(6))
    return DataLoader(TensorDataset(x, x[:, 0] % 3), 8)


class Reader(nn.Module):
    """An embedding and a layer that takes 64 features of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        out: Tensor = self.head(self.embed(x).mean(1))
        return out


@pytest.mark.parametrize(
    ("net", "loader"),
    [
        (lambda: dense(64), table),
        (Reader, tokens),
        (lambda: conv(1, kernel=1), lambda: images(1, 8, 8)),
        (
            lambda: nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.LazyLinear(3)),
            lambda: images(1, 64),
        ),
    ],
    ids=["table of 64", "tokens", "kernel of 1", "sequence"],
)
def test_where_there_is_no_picture_nothing_is_shown(
    net: Callable[[], nn.Module], loader: Callable[[], DataLoader[Any]]
) -> None:
    history = watched(net(), loader(), max_epochs=1)
    assert history.shown("filter/pixels") == {}
    assert history.places("filter/smoothness") == []


def test_weights_made_of_others_are_not_touched() -> None:
    """Reading a spectral norm's weight would change its buffers."""
    net = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 4, 3)), nn.Flatten(), nn.LazyLinear(3)
    )
    assert watched(net, images(1, 8, 8), max_epochs=1).shown("filter/pixels") == {}


def test_frozen_and_lazy_layers_and_half_precision_are_shown() -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    history = watched(net, images(3, 8, 8), max_epochs=1)
    assert history.shown("filter/pixels")["net.0.weight"][0][1]["shape"] == [4, 3, 3, 3]
    frozen = conv(1)
    next(frozen.children()).requires_grad_(requires_grad=False)
    trainer(FilterMonitor(**EVERY_STEP), max_epochs=1, precision="bf16-true").fit(
        Classifier(frozen), images(1, 8, 8)
    )
    shown = History.open("lightning_diag-1").shown("filter/pixels")["net.0.weight"]
    assert len({content["pixels"] for _, content in shown}) == 1


def test_a_weight_of_nan_is_shown_without_smoothness() -> None:
    net = conv(1)
    with torch.no_grad():
        next(net.parameters())[0] = float("nan")
    history = watched(net, images(1, 8, 8), max_epochs=1)
    assert history.places("filter/smoothness") == []
    assert history.shown("filter/pixels")["net.0.weight"][0][1]["smoothness"] is None


def test_training_makes_the_filters_of_pictures_smoother() -> None:
    """W9: from noise to the ramp that tells the classes apart."""
    history = watched(dense(64), images(64, samples=160), max_epochs=4)
    values = history.series("filter/smoothness", "net.0.weight").values
    assert abs(values[0]) < 0.15
    assert values[-1] > values[0] + 0.2


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_resumed_run_goes_on_where_it_was(tmp_path: Any) -> None:
    """P25: the same looks as of a run that was never interrupted."""
    whole = watched(dense(64), images(64), max_epochs=6)
    expected = whole.series("filter/smoothness", "net.0.weight").steps

    def run(until: int, **options: Any) -> None:
        fit = trainer(FilterMonitor(**EVERY_STEP), max_epochs=until, default_root_dir=tmp_path)
        fit.fit(Classifier(dense(64)), images(64), **options)
        fit.save_checkpoint(tmp_path / "half.ckpt")

    run(3)
    run(6, ckpt_path=tmp_path / "half.ckpt")
    resumed = History.open(tmp_path / "lightning_diag")
    steps = resumed.series("filter/smoothness", "net.0.weight").steps
    assert set(steps) - {17} == set(expected) - {17}  # the first half had a last step of its own
    assert [step for step, _ in resumed.shown("filter/pixels")["net.0.weight"]] == steps
