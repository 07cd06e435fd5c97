"""Whether a tensor of a source fits into a place of a module, and how it is made to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_diag.transfer.reshape import (
    Channels,
    Positions,
    adapt_channels,
    extra_tokens,
    interpolate_positions,
    is_position_table,
    widened,
)
from lightning_diag.transfer.slots import Slot

Fit = tuple[Tensor | None, str, str]
"""What to write, what was changed for that, and, without anything to write, why not."""


@dataclass(frozen=True)
class Fitting:
    """What may be changed to make a tensor fit."""

    channels: Channels | None = "auto"
    positions: Positions | None = None

    def fit(self, slot: Slot, value: Any, *, is_first_convolution: bool = False) -> Fit:
        """Return what to write to a place, or the reason why nothing is.

        Example:
            >>> bias = Slot("bias", torch.zeros(2), nn.Linear(1, 2), "bias")
            >>> Fitting().fit(bias, torch.zeros(3))
            (None, '', '(3,) in the source, (2,) here')
        """
        reason = _not_plain(value) or _not_writable(slot.tensor)
        if reason:
            return None, "", reason
        value = value.detach()
        changes: list[str] = []
        if value.shape != slot.tensor.shape:
            if not value.is_floating_point():
                return (
                    None,
                    "",
                    f"{tuple(value.shape)} in the source, {tuple(slot.tensor.shape)} here",
                )
            fitted, change = self._reshaped(slot, value, is_first_convolution=is_first_convolution)
            if fitted is None:
                return None, "", change
            value, changes = fitted, [change]
        reason = _loses(value, slot.tensor.dtype)
        if reason:
            return None, "", reason
        if value.dtype != slot.tensor.dtype:
            changes.append(f"{_name(value.dtype)} to {_name(slot.tensor.dtype)}")
        return value, ", ".join(changes), ""

    def _reshaped(
        self, slot: Slot, value: Tensor, *, is_first_convolution: bool
    ) -> tuple[Tensor | None, str]:
        old, new = tuple(value.shape), tuple(slot.tensor.shape)
        reason = f"{old} in the source, {new} here"
        is_table = is_position_table(slot.name) and _differs_in_places(old, new)
        if is_first_convolution and _differs_in_channels(old, new):
            if self.channels is None:
                return None, f"{reason}; `channels` would adapt it"
            fitted = adapt_channels(value, new[1], self.channels)
            how = ("sum" if new[1] == 1 else "repeat") if self.channels == "auto" else self.channels
            return fitted, f"{old} to {new}, channels by {how}"
        if is_table and extra_tokens(old[-2], new[-2]) is None:
            return None, f"{reason}; places are interpolated in squares of patches alone"
        if is_table and self.positions is not None:
            fitted = interpolate_positions(value, new[-2], self.positions)
            return fitted, f"{old} to {new}, {self.positions}"
        return None, f"{reason}; `positions` would interpolate it" if is_table else reason


def first_convolution(slots: Sequence[Slot]) -> str | None:
    """Return the name of the first convolution's weight, None if there is none or it has groups."""
    for slot in slots:
        owner = slot.owner
        if isinstance(owner, _ConvNd) and not isinstance(owner, _ConvTransposeNd):
            return slot.name if slot.attribute == "weight" and owner.groups == 1 else None
    return None


def _differs_in_channels(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    return len(old) == len(new) >= 3 and old[0] == new[0] and old[2:] == new[2:] and bool(old[1])


def _differs_in_places(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    if len(old) != len(new) or len(old) not in {2, 3}:
        return False
    return old[-1] == new[-1] and (len(old) == 2 or old[0] == new[0] == 1)


def _not_plain(value: Any) -> str:
    """Say why a value is none that can be copied, empty if it can."""
    if not isinstance(value, Tensor):
        return f"no tensor but {type(value).__name__} in the source"
    reasons = {
        "on the meta device in the source, which holds no numbers": value.is_meta,
        "sparse or nested in the source": value.layout != torch.strided or value.is_nested,
        "quantised in the source": value.is_quantized,
        "sharded in the source": type(value).__name__ in {"DTensor", "ShardedTensor"},
        "without a shape in the source": nn.parameter.is_lazy(value),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")


def _not_writable(tensor: Tensor) -> str:
    if tensor.is_quantized or tensor.layout != torch.strided:
        return "quantised or sparse here"
    shared = any(not step and n > 1 for step, n in zip(tensor.stride(), tensor.shape, strict=True))
    return "an expanded tensor here, whose elements share memory" if shared else ""


def _loses(value: Tensor, dtype: torch.dtype) -> str:
    """Say why a value would become another one in a type, empty if it is rounded at most."""
    if value.dtype == dtype or not value.numel():
        return ""
    said = f"{_name(value.dtype)} in the source, {_name(dtype)} here"
    if value.is_complex() and dtype.is_complex:
        return ""
    if value.is_floating_point() and dtype.is_floating_point:
        if torch.finfo(dtype).max >= torch.finfo(value.dtype).max:
            return ""
        overflows = widened(value).isfinite() & ~widened(value.to(dtype)).isfinite()
        return f"{said}: some values are too large" * bool(overflows.any())
    if (
        value.is_floating_point()
        or dtype.is_floating_point
        or value.is_complex()
        or dtype.is_complex
    ):
        return said
    return "" if torch.equal(value.to(dtype).to(value.dtype), value) else f"{said}: some do not fit"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
