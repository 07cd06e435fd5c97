"""Which dimension of an activation counts units: that of the layer it comes from."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class UnitDims:
    """Remembers how layers of a forward pass lay out their outputs.

    Layouts go by number of dimensions: a net may attend over ``(batch, tokens, units)`` between
    convolutions of ``(batch, channels, height, width)``, and squeeze those to ``(batch, units)``.

    Example:
        >>> from torch import zeros
        >>> dims = UnitDims()
        >>> dims.note(zeros(2, 3, 8, 8), last=False)
        >>> dims.note(zeros(2, 5, 4), last=True)
        >>> dims.of(zeros(2, 3, 8, 8)), dims.of(zeros(2, 5, 4)), dims.of(zeros(2, 3))
        (1, -1, -1)
    """

    def __init__(self) -> None:
        self._last: dict[int, bool] = {}
        self._newest = False

    def note(self, output: Any, *, last: bool) -> None:
        """Take note of a layer that counts units in the last dimension, or in dimension 1.

        Args:
            output: A tensor of as many dimensions as its output, or what it returned.
        """
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if isinstance(output, Tensor) and output.dim() > 2:
            self._last[output.dim()] = self._newest = last

    def of(self, x: Tensor) -> int:
        """Return the dimension of `x` that counts units, 1 or -1."""
        last = self._last.get(x.dim(), self._newest)
        return -1 if last or x.dim() <= 2 else 1

    def clear(self) -> None:
        """Forget everything."""
        self._last.clear()
        self._newest = False
