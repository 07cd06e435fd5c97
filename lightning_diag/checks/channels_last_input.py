"""`ChannelsLastInput`: pictures whose channels stand where a convolution wants the height."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.given import Given, seen_inputs
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved

_SPATIAL = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


@dataclass(frozen=True)
class ChannelsLastInput(Check):
    """Pictures whose channels come last, where the first convolution wants them before the height.

    What it sees:
        The shape of what the first convolution of a copy is given. Either it wants as many channels
        as the last dimension has, and the second one has another number, so that the step fails;
        or it runs, because the layer was made for it, but the last dimension holds at most
        `channels`, and those before it at least `pixels` each, in two dimensions or more.

    Why it matters:
        Arrays of pictures are (height, width, channels) on disk, in NumPy and in TensorFlow, and
        PyTorch wants (channels, height, width). A convolution that takes rows for channels slides
        over columns and colours, and learns little of either.

    What to do:
        Move the last dimension behind the first, where samples are read or with `permute` in the
        step. `memory_format=torch.channels_last` is another matter: it changes no shape.

    References:
        PyTorch documentation of `Conv2d`: input of shape (N, C, H, W).
    """

    code: ClassVar[str] = "channels-last-input"
    family: ClassVar[str] = "inputs"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    channels: int = 4
    """Size of the last dimension up to which it may be channels, at least 1. Our choice: grey,
    two, colour, or with transparency; torch-audit takes a width of 4, too."""
    pixels: int = 16
    """Size from which on the other dimensions are height and width, at least 1. Our choice: the
    smallest pictures that are trained on are 28 or 32 wide, and feature maps of 8 exist."""

    def __post_init__(self) -> None:
        self._require("channels", "pixels", least=1)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = seen_inputs(subject)
        calls = [call for call in seen.calls[0] if call.function in _SPATIAL]
        for call in calls:
            shape, wanted = tuple(call.x.shape), _wanted(call)
            fails = bool(seen.failed) and shape[1:2] != (wanted,) and shape[-1:] == (wanted,)
            if len(shape) != _SPATIAL[call.function] + 2 or not (fails or self._is_last(shape)):
                continue
            does = "fails" if fails else "takes rows for channels"
            return self.found(
                "bad" if fails else "suspect",
                f"At `{call.place}` the first convolution is given a batch of shape {shape}, whose "
                f"last dimension looks like channels, where it takes dimension 1 for its {wanted} "
                f"channels: it {does}.",
                "Put the channels first with `torch.movedim`, or where samples are read.",
                value=shape[-1],
                threshold=wanted if fails else self.channels,
                places=(call.place,),
                window=shape[0],
            )
        return []

    def _is_last(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 3 and shape[-1] <= self.channels and min(shape[1:-1]) >= self.pixels


def _wanted(call: Given) -> int:
    """Return how many channels a convolution takes."""
    weight: Tensor | None = call.weight
    return 0 if weight is None or weight.dim() < 2 else weight.shape[1] * call.groups
