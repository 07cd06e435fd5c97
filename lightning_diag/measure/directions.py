"""How alike the directions of samples are that a network puts on the unit sphere (H7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers, placed
from lightning_diag.measure.losses import scalar
from lightning_diag.measure.moments import plain

_SAMPLES = 256
"""Samples that are compared, evenly spread (our choice, as of rows of embeddings)."""
_ROUNDED = 0.02
"""How far a squared norm may be from 1 (our choice: what 16 bits round)."""


class DirectionMeasure(CallMeasure):
    """Mean cosine between two samples of what `torch.nn.functional.normalize` returned.

    Losses and miners that compare embeddings by their direction call it, whoever wrote them. Only
    what was computed is looked at, not parameters, as one row a sample: ``(samples, features)``.

    Example:
        >>> from torch import tensor
        >>> x = tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], requires_grad=True) * 1
        >>> call = Call("normalize#0", "normalize", "direction", 1, x)
        >>> call.output = x / x.norm(dim=1, keepdim=True)
        >>> measure = DirectionMeasure()
        >>> columns = measure.after(call)
        >>> measure.summarise([call.place], columns.sums, columns.maxima)["mean_cosine"]
        {'normalize#0': 0.333...}
    """

    name: ClassVar[str] = "output"
    kinds: ClassVar[frozenset[str]] = frozenset({"direction"})
    outputs: ClassVar[dict[str, str]] = {
        "mean_cosine": "mean cosine between two samples of a micro-batch; -1 to 1"
    }

    def after(self, call: Call) -> Columns | None:
        """See `CallMeasure.after`.

        Shape:
            ``(samples, features)`` -> sums ``(1, 2)``: cosines and pairs; maxima ``(1, 1)``: how
            far a squared norm is from 1.
        """
        output = call.output
        if output is None or output.dim() != 2 or len(output) < 2 or call.input.grad_fn is None:
            return None
        rows = plain(output[:: math.ceil(len(output) / _SAMPLES)])
        squares = rows.square().sum(1)
        cosines = rows.sum(0).square().sum() - squares.sum()
        n = len(rows)
        return Columns.of(
            rows.device,
            [(scalar(cosines), float(n * (n - 1)))],
            [(scalar((squares - 1).abs().amax()),)],
        )

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        cosines, pairs = sums.unbind(1)
        return {"mean_cosine": placed(places, cosines / pairs, maxima[:, 0] < _ROUNDED)}
