"""Gradients of each parameter: norm, largest value, exact zeros, non-finite values (W1, W2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers, placed
from lightning_diag.measure.moments import (
    Scalar,
    each_largest,
    each_nonzero_count,
    each_square_sum,
    nonfinite_count,
    plain,
)
from lightning_diag.measure.shards import local_part


class GradientMeasure(Measure):
    """Statistics of the gradients of an optimizer's parameters.

    Columns that add up: sum of squares, exact non-zeros, non-finite elements, elements, and the
    number of ranks' worth of observations, by which replicas cancel.

    Example:
        >>> measure = GradientMeasure()
        >>> columns = measure.observe([torch.tensor([3.0, -4.0]), None])
        >>> numbers = measure.summarise(["w", "b"], columns.sums, columns.maxima)
        >>> numbers["norm"], numbers["max"], numbers["missing"]
        ({'w': 5.0}, {'w': 4.0}, {'w': 0.0, 'b': 1.0})
    """

    name: ClassVar[str] = "gradient"
    outputs: ClassVar[dict[str, str]] = {
        "norm": "L2 norm, unscaled, accumulated, before clipping; 0 or more",
        "max": "largest absolute value; 0 or more",
        "zero_fraction": "share of exact zeros, 0 to 1",
        "nonfinite_count": "NaN and infinite elements",
        "missing": "1 where the gradient was None at the optimizer's step, else 0",
    }

    def observe(
        self,
        gradients: Sequence[Tensor | None],
        scale: Tensor | None = None,
        *,
        counts_zeros: bool = True,
    ) -> Columns:
        """Reduce one gradient a row; None is a parameter that got none.

        Args:
            scale: The loss scale, where gradients are still multiplied by it (fused optimizers
                under a grad scaler unscale inside their step).
            counts_zeros: Whether to count exact zeros, which costs as much as all the rest.

        Shape:
            n tensors of any shape -> sums ``(n, 5)``, maxima ``(n, 1)``.
        """
        device = next((g.device for g in gradients if g is not None), torch.device("cpu"))
        rows = _rows(gradients, counts_zeros=counts_zeros)
        result = Columns.of(device, [row[:5] for row in rows], [row[5:] for row in rows])
        if scale is not None:
            scale = scale.to(device=device, dtype=result.sums.dtype)
            result = Columns(result.sums.to(device), result.maxima.to(device))
            result.sums[:, 0] /= scale * scale
            result.maxima /= scale
        return result

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        squares, nonzeros, nonfinite, elements, seen = sums.unbind(1)
        observed = seen > 0
        copies = seen.clamp(min=1e-9)
        filled = observed & (elements > 0)
        return {
            "norm": placed(places, (squares / copies).sqrt(), observed),
            "max": placed(places, maxima[:, 0], observed),
            "zero_fraction": placed(places, 1 - nonzeros / elements.clamp(min=1), filled),
            "nonfinite_count": placed(places, (nonfinite / copies).round(), observed),
            "missing": placed(places, (~observed).to(sums.dtype)),
        }


def _rows(gradients: Sequence[Tensor | None], *, counts_zeros: bool) -> list[tuple[Scalar, ...]]:
    parts = [None if gradient is None else local_part(gradient) for gradient in gradients]
    values = [plain(part[0]) for part in parts if part is not None]
    norms = each_square_sum(values)
    counts = each_nonzero_count(values) if counts_zeros else [0.0] * len(values)
    observed = zip(values, norms, counts, each_largest(values), strict=True)
    rows: list[tuple[Scalar, ...]] = []
    for part in parts:
        if part is None:
            rows.append((0.0,) * 6)
            continue
        local, share = part
        # of a sparse gradient, what is not stored is zero
        elements = float(local.numel() * (2 if local.is_complex() else 1)) * counts_zeros
        x, norm, nonzeros, peak = next(observed)
        rows.append((norm, nonzeros, nonfinite_count(x, norm), elements, share, peak))
    return rows


def squares(gradients: Sequence[Tensor | None]) -> Columns:
    """Return sum of squares and observations of each gradient, and nothing else.

    Shape:
        n tensors of any shape -> sums ``(n, 2)``, maxima ``(n, 0)``.
    """
    device = next((g.device for g in gradients if g is not None), torch.device("cpu"))
    parts = [None if gradient is None else local_part(gradient) for gradient in gradients]
    sums = iter(each_square_sum([plain(part[0]) for part in parts if part is not None]))
    return Columns.of(
        device, [(0.0, 0.0) if part is None else (next(sums), part[1]) for part in parts]
    )


def root_sum_square(norms: Iterable[float]) -> float:
    """Return the norm of all parts together from the norms of the parts.

    Example:
        >>> root_sum_square([3.0, 4.0])
        5.0
    """
    return math.hypot(*norms)


def layer_norms(norms: Mapping[str, float], layers: Mapping[str, str]) -> dict[str, float]:
    """Return the norm of each layer from the norms of its own parameters.

    Args:
        norms: Parameter to norm.
        layers: Parameter to layer.

    Example:
        >>> layer_norms({"a.weight": 3.0, "a.bias": 4.0}, {"a.weight": "a", "a.bias": "a"})
        {'a': 5.0}
    """
    parts: dict[str, list[float]] = {}
    for name, norm in norms.items():
        parts.setdefault(layers[name], []).append(norm)
    return {layer: root_sum_square(values) for layer, values in parts.items()}


def depth_ratio(norms: Mapping[str, float], shapes: Mapping[str, Sequence[int]]) -> float | None:
    """Return the RMS gradient of the first weight over that of the last; None with fewer than 2.

    Weights are parameters with at least two dimensions. The root mean square, not the norm, lets
    layers of different sizes be compared.

    Example:
        >>> depth_ratio({"a": 1.0, "b": 10.0}, {"a": (2, 2), "b": (2, 2)})
        0.1
    """
    rms = [
        norm / math.sqrt(math.prod(shapes[name]))
        for name, norm in norms.items()
        if len(shapes[name]) > 1 and math.prod(shapes[name]) > 0
    ]
    if len(rms) < 2 or not rms[-1] > 0:
        return None
    return rms[0] / rms[-1]
