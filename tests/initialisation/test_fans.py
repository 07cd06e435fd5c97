"""Fan-in and fan-out, against counts of the terms in real convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_diag.initialisation.fans import convolution_fans, einsum_fans, linear_fans
from lightning_diag.initialisation.slots import find_slots


def counted(layer: Any) -> tuple[float, float]:
    """Return the fans that layers of ones have, in the middle of large pictures of ones."""
    nn.init.ones_(layer.weight)
    x = torch.ones(1, layer.in_channels, *[40] * (layer.weight.ndim - 2), requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert x.grad is not None
    return _middle(out.detach()), _middle(x.grad)


def _middle(x: Tensor) -> float:
    for dim in range(2, x.ndim):
        x = x.narrow(dim, x.shape[dim] // 4, 12)
    return float(x.mean())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(4, 6, 4, stride=2, bias=False),
        nn.Conv2d(4, 6, 3, dilation=2, bias=False),
        nn.ConvTranspose1d(4, 6, 4, stride=2, bias=False),
        nn.ConvTranspose2d(4, 6, 4, stride=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, bias=False),
        nn.ConvTranspose2d(4, 8, 3, groups=2, stride=3, bias=False),
    ],
    ids=str,
)
def test_fans_of_convolutions_are_the_terms_that_are_added_up(layer: nn.Module) -> None:
    (slot,) = find_slots(layer)
    fans = slot.fans
    assert fans is not None
    assert tuple(fans) == pytest.approx(counted(layer))


def test_one_stride_stands_for_all_dimensions() -> None:
    assert convolution_fans((6, 4, 4, 4), stride=(2,)) == convolution_fans(
        (6, 4, 4, 4), stride=(2, 2)
    )


def test_a_matrix_may_stand_either_way() -> None:
    assert linear_fans((3, 5)) == (5, 3)
    assert linear_fans((3, 5), transposed=True) == (3, 5)


@pytest.mark.parametrize(
    ("equation", "shape", "fans"),
    [
        ("bi,io->bo", (5, 3), (5, 3)),
        ("bi,oi->bo", (3, 5), (5, 3)),
        ("bti,ihd->bthd", (5, 2, 4), (5, 8)),
        ("b h i, h i o -> b h o", (2, 5, 3), (5, 3)),
        ("...i,io->...o", (5, 3), None),
    ],
)
def test_fans_of_an_einsum_are_read_off_its_letters(
    equation: str, shape: tuple[int, ...], fans: tuple[int, int] | None
) -> None:
    assert einsum_fans(equation, shape, 1) == fans
