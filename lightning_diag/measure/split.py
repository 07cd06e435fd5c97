"""The gradients of parts of one batch, from what its backward pass computes anyway (W15).

The gradient of a linear or convolution layer's weight is a sum over samples of products of what
went into the layer and what comes back from it. Summed over a part of the samples, these products
give that part's gradient: no second pass through the model, which would draw random numbers, move
the statistics of batch norm, and run the user's code again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import grad

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers, always
from lightning_diag.measure.moments import plain, wide
from lightning_diag.measure.noise_scale import NoiseScaleMeasure

PARTS = 8
"""Our choice: parts of a batch. More are no better once they hold a sample each; fewer scatter
more."""
_UNITS = 64
"""Our choice: units of a linear layer that are looked at on either side, evenly spread."""
_CHANNELS = 8
"""Our choice: the same of channels, since each has all the pixels."""
_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: grad.conv1d_weight,
    nn.Conv2d: grad.conv2d_weight,
    nn.Conv3d: grad.conv3d_weight,
}


@dataclass(frozen=True)
class _Seen:
    """What is kept of a layer's call until its gradient arrives."""

    layer: nn.Module
    x: Tensor
    """Some units or channels of its input, ``(samples, ...)``."""
    every_output: int
    """One in so many units or channels of the output is looked at."""
    parts: int
    share: float
    """Weights of the layer over those that are looked at."""


def can_split(layer: nn.Module) -> bool:
    """Whether the gradient of a layer's weight can be computed by parts of the batch."""
    if not isinstance(getattr(layer, "weight", None), nn.Parameter):
        return False
    if type(layer) is nn.Linear:
        return True
    plain_one = getattr(layer, "groups", 0) == 1 and not isinstance(layer.padding, str)
    return type(layer) in _CONVOLUTIONS and plain_one and layer.padding_mode == "zeros"


def parts_of(samples: int, most: int = PARTS) -> int:
    """Return into how many parts of the same size a batch is split; a remainder is left out.

    Example:
        >>> parts_of(64), parts_of(5), parts_of(1)
        (8, 5, 1)
    """
    return min(samples, most)


def keep(layer: nn.Module, x: Tensor, samples: int) -> _Seen:
    """Keep what the gradients of the parts will need: a spread of the input's units."""
    units = 1 if type(layer) is not nn.Linear else x.dim() - 1
    most = _UNITS if type(layer) is nn.Linear else _CHANNELS
    weight: Any = layer.weight
    outputs, inputs = weight.shape[:2]
    every_output, every_input = (max(1, math.ceil(n / most)) for n in (outputs, inputs))
    parts = parts_of(samples)
    x = x.detach()[: samples // parts * parts]
    if every_input > 1:
        index = torch.arange(0, inputs, every_input, device=x.device)
        x = x.index_select(units, index)
    looked_at = math.ceil(outputs / every_output) * math.ceil(inputs / every_input)
    return _Seen(layer, x, every_output, parts, outputs * inputs / looked_at)


def part_squares(seen: _Seen, gradient: Tensor) -> Tensor:
    """Return the squared norm of the sum over each part's samples, and of all parts together.

    Args:
        seen: What was kept of the call.
        gradient: Of the loss with respect to the layer's output, ``(samples, ...)``.

    Shape:
        -> ``(parts + 1,)``, in at least float32.
    """
    x, every, parts = plain(seen.x), seen.every_output, seen.parts
    gradient = plain(gradient)[: len(x)]
    if type(seen.layer) is nn.Linear:
        x = x.reshape(parts, -1, x.shape[-1])
        back = gradient[..., ::every].reshape(parts, x.shape[1], -1)
        weights = torch.bmm(back.transpose(1, 2), x).flatten(1)
    else:
        weights = _convolution_parts(seen, x, gradient[:, ::every])
    whole = weights.sum(0, keepdim=True)
    norms = torch.linalg.vector_norm(torch.cat([weights, whole]), dim=1)
    squares: Tensor = norms.to(wide(norms.device)).square() * seen.share
    return squares


def _convolution_parts(seen: _Seen, x: Tensor, back: Tensor) -> Tensor:
    """Return the gradients of all parts in one call: they are the groups of one convolution."""
    layer: Any = seen.layer
    size = (seen.parts * back.shape[1], x.shape[1], *layer.kernel_size)
    weights = _CONVOLUTIONS[type(layer)](
        _side_by_side(x, seen.parts),
        size,
        _side_by_side(back, seen.parts),
        layer.stride,
        layer.padding,
        layer.dilation,
        seen.parts,
    )
    return weights.reshape(seen.parts, -1)


def _side_by_side(x: Tensor, parts: int) -> Tensor:
    """Return the parts of a batch side by side: ``(n, c, *)`` -> ``(n / parts, parts * c, *)``."""
    inner = x.reshape(parts, -1, *x.shape[1:]).transpose(0, 1)
    return inner.reshape(len(x) // parts, -1, *x.shape[2:])


class PartWatch(CallMeasure):
    """Has the gradients that come back to layers split by parts of the batch.

    It adds no columns of its own: what it sees lies in `squares`, for whoever knows the step.

    Args:
        due: Whether to look at the forward pass that begins.
    """

    name: ClassVar[str] = "noise_scale"
    outputs: ClassVar[dict[str, str]] = NoiseScaleMeasure.outputs
    kinds: ClassVar[frozenset[str]] = frozenset({"layer"})

    def __init__(self, due: Callable[[], bool] = always) -> None:
        super().__init__(due)
        self.layers: Mapping[str, nn.Module] = {}
        """The layers to look at, by path."""
        self.samples = 0
        """Of the micro-batch."""
        self.squares: dict[int, Tensor | None] = {}
        """By the weight's ``id``; None for a layer that was called, or reached, more than once."""
        self.error: Exception | None = None
        """What went wrong in backward, where an error would end the user's pass."""
        self._called: set[str] = set()

    def begin(self, samples: int) -> None:
        """Forget the micro-batch before."""
        self.samples, self.squares = samples, {}
        self._called.clear()

    def after(self, call: Call) -> Columns | None:
        """Keep some of the input until the gradient of the output comes back."""
        path = call.place.rpartition("/")[0]
        layer, output = self.layers.get(path), call.output
        if layer is None or output is None or not output.requires_grad:
            return None
        weight: Any = layer.weight
        if path in self._called:
            self.squares[id(weight)] = None
            return None
        self._called.add(path)
        x = call.input
        counts_samples = x.dim() > 1 and len(x) == self.samples >= 2
        if type(layer) in _CONVOLUTIONS:
            counts_samples &= x.dim() == weight.dim()
        if not counts_samples or not weight.requires_grad:
            return None
        seen, squares, key = keep(layer, x, self.samples), self.squares, id(weight)
        output.register_hook(lambda gradient: self._look(squares, key, seen, gradient))
        return None

    def _look(
        self, squares: dict[int, Tensor | None], key: int, seen: _Seen, gradient: Tensor
    ) -> None:
        if self.error is not None:
            return
        try:
            with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
                squares[key] = None if key in squares else part_squares(seen, gradient.detach())
        except Exception as error:  # noqa: BLE001  # raised again where the probe can take it
            self.error = error

    def summarise(self, places: Any, sums: Tensor, maxima: Tensor) -> Numbers:
        """Return nothing: see the class."""
        return {}
