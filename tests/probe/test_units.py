"""Which dimension of an activation counts units, by the layer it comes from (W5, P46)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_diag.measure.base import Call, CallMeasure, Columns
from lightning_diag.measure.dead_relu import FiredMeasure
from lightning_diag.probe.places import trained_modules
from lightning_diag.probe.units import UnitDims
from lightning_diag.probe.watch import CallWatch


def units(net: nn.Module, *inputs: Tensor, passes: int = 1) -> list[int]:
    """Return the number of units of each ReLU call, all passes one after the other."""
    found: list[int] = []

    def sink(measure: CallMeasure, call: Call, columns: Columns) -> None:
        found.append(columns.maxima.shape[1])

    watch = CallWatch(
        trained_modules(net), [FiredMeasure()], sink, lambda _, observe, call: observe(call)
    )
    for _ in range(passes):
        watch.start()
        try:
            net(*inputs)
        finally:
            watch.stop()
    return found


class Do(nn.Module):
    """Runs a function as a module's forward."""

    def __init__(self, run: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(*self.layers, *inputs)


# Sizes differ in every dimension, so that the number of units tells which one was taken.
IMAGE = torch.randn(2, 3, 10, 11)
TOKENS = torch.randn(2, 7, 5)


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [
        (nn.Linear(5, 13), torch.randn(4, 5), 13),
        (nn.Linear(5, 13), TOKENS, 13),
        (nn.Linear(11, 13), IMAGE, 13),
        (nn.Conv1d(7, 13, 1), TOKENS, 13),
        (nn.Conv2d(3, 13, 1), IMAGE, 13),
        (nn.Conv3d(3, 13, 1), torch.randn(2, 3, 4, 5, 6), 13),
        (nn.ConvTranspose1d(7, 13, 1), TOKENS, 13),
        (nn.ConvTranspose2d(3, 13, 1), IMAGE, 13),
        (nn.ConvTranspose3d(3, 13, 1), torch.randn(2, 3, 4, 5, 6), 13),
        (nn.Conv2d(3, 13, 3, padding=1, padding_mode="circular"), IMAGE, 13),
    ],
    ids=str,
)
def test_units_are_the_layers_own(layer: nn.Module, x: Tensor, expected: int) -> None:
    assert units(nn.Sequential(layer, nn.ReLU()), x) == [expected]


def test_layers_between_leave_the_layout_alone() -> None:
    conv = nn.Sequential(
        nn.Conv2d(3, 13, 1), nn.BatchNorm2d(13), nn.MaxPool2d(2), nn.Dropout2d(), nn.ReLU()
    )
    tokens = nn.Sequential(nn.Linear(5, 13), nn.LayerNorm(13), nn.Dropout(), nn.ReLU())
    assert units(conv, IMAGE) == [13]
    assert units(tokens, TOKENS) == [13]


def test_channels_last_memory_is_still_dimension_one() -> None:
    net = nn.Sequential(nn.Conv2d(3, 13, 1), nn.ReLU()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert units(net, IMAGE.to(memory_format=torch.channels_last)) == [13]


def test_images_with_channels_at_the_end_have_them_there() -> None:
    """An MLP on (batch, height, width, channels), as in ConvNeXt or an MLP-Mixer."""

    def forward(conv: nn.Module, mlp: nn.Module, x: Tensor) -> Tensor:
        x = functional.relu(conv(x))
        x = functional.relu(mlp(x.permute(0, 2, 3, 1)))
        return functional.relu(conv(x.permute(0, 3, 1, 2)[:, :3]))

    assert units(Do(forward, nn.Conv2d(3, 13, 1), nn.Linear(13, 17)), IMAGE) == [13, 17, 13]


def test_a_squeeze_between_convolutions_does_not_turn_images() -> None:
    """Squeeze-and-excitation: linear layers on (batch, channels) scale an image."""

    def forward(conv: nn.Module, down: nn.Module, up: nn.Module, x: Tensor) -> Tensor:
        x = conv(x)
        scale = torch.sigmoid(up(functional.relu(down(x.mean((2, 3))))))
        return functional.relu(x * scale[:, :, None, None])

    net = Do(forward, nn.Conv2d(3, 13, 1), nn.Linear(13, 4), nn.Linear(4, 13))
    assert units(net, IMAGE) == [4, 13]


def test_attention_between_convolutions_does_not_turn_images() -> None:
    """Tokens of an image are attended over, and become an image again."""

    def forward(conv: nn.Module, qkv: nn.Module, x: Tensor) -> Tensor:
        x = conv(x)
        q, k, v = qkv(x.flatten(2).mT).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(q, k, functional.relu(v))
        return functional.relu(x + mixed.mT.reshape(x.shape))

    assert units(Do(forward, nn.Conv2d(3, 13, 1), nn.Linear(13, 39)), IMAGE) == [13, 13]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_units_last(
    recurrent: Callable[..., nn.Module], batch_first: bool
) -> None:
    layer = recurrent(5, 13, batch_first=batch_first)
    assert units(Do(lambda r, x: functional.relu(r(x)[0]), layer), TOKENS) == [13]


def test_embeddings_count_units_last() -> None:
    net = nn.Sequential(nn.Embedding(9, 13), nn.ReLU())
    assert units(net, torch.randint(0, 9, (2, 7))) == [13]


def test_attention_layers_count_units_last() -> None:
    layer = nn.MultiheadAttention(6, 2, batch_first=True)
    x = torch.randn(2, 7, 6)
    assert units(Do(lambda attend, x: functional.relu(attend(x, x, x)[0]), layer), x) == [6]


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: x @ w,
        lambda x, w: x.matmul(w),
        torch.matmul,
        lambda x, w: torch.bmm(x, w.expand(2, 5, 13)),
        lambda x, w: x.bmm(w.expand(2, 5, 13)),
        lambda x, w: torch.einsum("btu,uv->btv", x, w),
        lambda x, w: torch.baddbmm(torch.zeros(1), x, w.expand(2, 5, 13)),
        lambda x, w: torch.tensordot(x, w, 1),
    ],
    ids=range(8),
)
def test_matrix_products_count_units_last(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    weight = torch.randn(5, 13)
    assert units(Do(lambda x: functional.relu(product(x, weight))), TOKENS) == [13]


def test_a_transformer_counts_units_last() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 13, batch_first=True, activation="relu")
    assert units(layer, torch.randn(2, 7, 6)) == [13]


def test_an_activation_before_any_layer_has_channels_in_dimension_one() -> None:
    """In every pass alike: what came last in the pass before does not count."""

    def forward(linear: nn.Module, x: Tensor) -> Tensor:
        return functional.relu(linear(functional.relu(x)))

    assert units(Do(forward, nn.Linear(11, 13)), IMAGE, passes=3) == [3, 13] * 3


def test_a_layout_of_unknown_dimensions_is_that_of_the_newest_layer() -> None:
    dims = UnitDims()
    x4, x5 = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4, 5)
    dims.note(torch.zeros(2, 3), last=True)
    assert dims.of(x4) == 1
    dims.note(torch.zeros(2, 3, 4), last=True)
    assert (dims.of(x4), dims.of(x5)) == (-1, -1)
    dims.note(x4, last=False)
    assert (dims.of(x4), dims.of(x5), dims.of(torch.zeros(2, 3, 4))) == (1, 1, -1)
    dims.note((torch.zeros(2, 3, 4), None), last=False)
    assert dims.of(torch.zeros(2, 3, 4)) == 1
    dims.note(None, last=True)
    dims.note((), last=True)
    dims.clear()
    assert dims.of(torch.zeros(2, 3, 4)) == 1
