"""What is to be done to each parameter: the rules behind `suggest_init` and `init_`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from lightning_diag.initialisation.fans import Fans
from lightning_diag.initialisation.follow import Followed
from lightning_diag.initialisation.gains import RELU_LIKE, activation_gain
from lightning_diag.initialisation.slots import Slot, size_of
from lightning_diag.initialisation.table import Draw, InitSuggestion

Scheme = Literal["auto", "he", "xavier", "lecun", "orthogonal", "sparse", "lsuv"]
Mode = Literal["fan_in", "fan_out", "fan_avg"]

_GATES = ("sigmoid", "hardsigmoid", "softplus")
"""Activations whose gain is for what lies between layers: at an end or as a factor it is 1."""
_OF_KIND: dict[str, tuple[Draw, str]] = {
    "recurrent": ("orthogonal", "one matrix for each gate"),
    "gates": ("xavier", ""),
    "attention": ("xavier", ""),
}
"""How matrices are drawn that torch's own modules tell the use of."""
_LINEAR = ("layer", "output", "loss", "softmax", "attention", "product", "gates")


@dataclass(frozen=True)
class Plan:
    """What is to be done to a module."""

    slots: tuple[Slot, ...]
    rows: tuple[InitSuggestion, ...]
    """One for each slot."""
    scheme: Scheme


class Planner:
    """What a suggestion depends on beside the slot itself."""

    def __init__(
        self,
        slots: list[Slot],
        followed: dict[str, Followed],
        adds: int,
        scheme: Scheme,
        mode: Mode | None,
    ) -> None:
        self._followed, self._adds = followed, adds
        self._scheme, self._mode = scheme, mode
        self._sizes = {slot.name: size_of(slot.tensor) for slot in slots}
        self._kinds = {slot.name: self._kind(slot) for slot in slots}
        weights = [slot for slot in slots if self._kinds[slot.name] == "weight"]
        norms = [s for s in slots if s.kind == "norm" and s.attribute == "weight"]
        self._all_zero = not any(self._sizes[slot.name] for slot in weights)
        self._norms_zero = not any(self._sizes[slot.name] for slot in norms)
        tied = [slot for slot in slots if (f := followed.get(slot.name)) and f.is_tied]
        # Position embeddings are added to those of tokens, and should not drown them.
        self._tied_widths = {slot.tensor.shape[-1] for slot in tied}
        self._weights = {id(slot.owner): slot for slot in weights if slot.attribute == "weight"}

    def suggestion(self, slot: Slot) -> InitSuggestion:
        """Return what fits a tensor."""
        kept = self._kept(slot)
        if kept:
            return self._row(slot, "keep", kept)
        kind = self._kinds[slot.name]
        if kind in _OF_KIND:
            draw, reason = _OF_KIND[kind]
            return self._row(slot, draw, reason, gain=1.0)
        if kind == "embedding":
            return self._embedding(slot)
        return self._weight(slot) if kind == "weight" else self._row(slot, _plain_draw(slot))

    def _kind(self, slot: Slot) -> str:
        """Return what a slot is, where a parameter of the user's own turns out to be a weight."""
        is_own = slot.kind == "other" and slot.tensor.ndim >= 2
        return "weight" if is_own and slot.name in self._followed else slot.kind

    def _kept(self, slot: Slot) -> str:
        """Return why a tensor is left alone, empty if it is not."""
        followed, is_zero = self._followed.get(slot.name, Followed()), not self._sizes[slot.name]
        kind, is_weight = self._kinds[slot.name], slot.attribute == "weight"
        is_end = followed.is_residual or followed.is_output
        reasons = {
            "frozen": slot.is_frozen,
            f"it is a {type(slot.tensor).__name__}": (
                type(slot.tensor) not in (torch.Tensor, nn.Parameter)
            ),
            "not of real numbers": not slot.tensor.is_floating_point(),
            "no weight of a layer that was seen": kind == "other",
            "the weight that is used is computed from it": (
                followed.is_computed and not slot.is_parametrized
            ),
            "a sine follows, whose frequency sets its weights": (
                kind == "weight" and followed.by == "sin"
            ),
            "zero, so that a branch begins switched off": (
                kind == "norm" and is_weight and is_zero and not self._norms_zero
            ),
            "zero at the end of a branch or of the network, where that is no fault": (
                kind == "weight" and is_zero and is_end and not self._all_zero
            ),
            "set beforehand, to what is expected of the output": (
                kind == "bias" and self._is_set_by_hand(slot)
            ),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _is_set_by_hand(self, slot: Slot) -> bool:
        """Whether the last bias is larger than PyTorch draws it, as for rare classes."""
        weight = self._weights.get(id(slot.owner))
        followed = self._followed.get(weight.name) if weight else None
        if weight is None or followed is None or not followed.is_output:
            return False
        if not isinstance(slot.owner, (nn.Linear, _ConvNd)) or not slot.tensor.numel():
            return False
        fan = weight.tensor[0].numel()  # as PyTorch has it, for transposed ones, too
        return float(slot.tensor.detach().abs().max()) > 1.001 / math.sqrt(max(1, fan))

    def _embedding(self, slot: Slot) -> InitSuggestion:
        followed = self._followed.get(slot.name, Followed())
        width = slot.tensor.shape[-1]
        if width in self._tied_widths:
            reason = (
                "as one of the same width"
                if not followed.is_tied
                else ("tied to a layer, whose outputs then have variance 1")
            )
            return self._row(slot, "normal", reason, gain=1.0, std=1 / math.sqrt(width))
        return self._row(slot, "normal", gain=1.0, std=1.0)

    def _weight(self, slot: Slot) -> InitSuggestion:
        followed = self._followed.get(slot.name, Followed())
        if self._scheme in ("he", "xavier", "lecun"):
            slope = followed.parameter if followed.by == "leaky_relu" else 0.0
            gain = math.sqrt(2 / (1 + (slope or 0.0) ** 2)) if self._scheme == "he" else 1.0
            return self._row(slot, self._scheme, gain=gain)
        draw, gain, reason = fitting(followed)
        branches = max(1, self._adds) if followed.is_residual else 1
        if branches > 1:
            reason = f"one of {branches} branches that are added up"
        if self._scheme != "auto":
            draw = "sparse" if self._scheme == "sparse" else "orthogonal"
        row = self._row(slot, draw, reason, gain=gain / math.sqrt(branches))
        return replace(row, branches=branches)

    def _row(
        self,
        slot: Slot,
        draw: Draw,
        reason: str = "",
        *,
        gain: float | None = None,
        std: float | None = None,
    ) -> InitSuggestion:
        followed = self._followed.get(slot.name)
        fans = followed.use.fans if followed and followed.use and slot.kind == "other" else None
        fans = fans or slot.fans
        if gain is not None and std is None and fans is not None:
            std = gain / math.sqrt(self._fan(fans, draw))
        by_kind = {"gates": "gates", "recurrent": "gates", "attention": "attention"}
        text = by_kind.get(slot.kind, followed.text if followed else "not known")
        is_known = gain is None or std is not None
        return InitSuggestion(
            slot.name,
            tuple(slot.tensor.shape),
            self._kinds[slot.name],
            text if gain is not None else "",
            draw if is_known else "keep",
            reason if is_known else "its fan-in is not known",
            fan_in=None if fans is None or gain is None else fans.into,
            fan_out=None if fans is None or gain is None else fans.out,
            gain=gain,
            std=std,
            size=self._sizes[slot.name],
        )

    def _fan(self, fans: Fans, draw: Draw) -> float:
        mode = self._mode or ("fan_avg" if draw == "xavier" else "fan_in")
        return {"fan_in": fans.into, "fan_out": fans.out, "fan_avg": sum(fans) / 2}[mode]


def _plain_draw(slot: Slot) -> Draw:
    """Return what the weights of norms and all biases begin with."""
    if slot.kind == "norm":
        return "ones" if slot.attribute == "weight" else "zeros"
    is_lstm = isinstance(slot.owner, (nn.LSTM, nn.LSTMCell))
    return "forget" if is_lstm and slot.attribute.startswith("bias_ih") else "zeros"


def fitting(followed: Followed) -> tuple[Draw, float, str]:
    """Return how weights are drawn for what follows them, with what gain, and why.

    Example:
        >>> fitting(Followed("leaky_relu", 0.2))[:2]
        ('he', 1.3867504905630728)
        >>> fitting(Followed("exp"))
        ('lecun', 1.0, 'no gain is known for exp')
    """
    by = followed.by
    is_sum = followed.is_residual and (followed.is_sum_normed or by in _LINEAR)
    if by in ("output", "loss") and not is_sum:
        return "xavier", 1.0, ""
    if is_sum or by in _LINEAR or not by:
        is_unknown = not (by or is_sum or followed.is_normed)
        return "lecun", 1.0, "what follows was not seen" if is_unknown else ""
    gain = activation_gain(by, followed.parameter)
    if gain is None:
        return "lecun", 1.0, f"no gain is known for {by}"
    if by in _GATES and not followed.is_hidden:
        return "xavier", 1.0, ""
    is_growing = by in RELU_LIKE or (gain > 1 and by not in _GATES)
    return "lecun" if by == "selu" else "he" if is_growing else "xavier", gain, ""
