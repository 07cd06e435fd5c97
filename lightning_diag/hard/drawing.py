"""How losses decide what an epoch holds: the choices of the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["rank", "loss"]


@dataclass(frozen=True)
class Drawing:
    """How losses decide what is drawn.

    Raises:
        ValueError: If a field is out of range.
    """

    by: By = "rank"
    """What a chance comes from: the rank of a sample's loss, or the loss itself."""
    temperature: float = 0.5
    """Above 0, in units of all ranks or of powers of the loss: the higher, the more alike."""
    uniform: float = 0.2
    """Share of the draws that fall on all samples alike, from 0 to 1."""
    replacement: bool = True
    """Whether a sample may come more than once in an epoch."""
    half_life: float | None = 8.0
    """Epochs after which a loss counts half as far from the average, if not seen again."""
    hardest: float | None = None
    """Share of samples that hard epochs are drawn from, above 0 and below 1; None has none."""
    hard_epochs: int = 1
    """Hard epochs in a row, at least 1."""
    mixed_epochs: int = 3
    """Other epochs between them, at least 1."""
    warmup: int = 1
    """Epochs at the beginning that are shuffled alone, at least 1."""

    def __post_init__(self) -> None:
        if self.by not in ("rank", "loss"):
            raise ValueError(f"`by` must be 'rank' or 'loss', got {self.by!r}.")
        for name, value in (("temperature", self.temperature), ("half_life", self.half_life)):
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be above 0, got {value}.")
        if not 0 <= self.uniform <= 1:
            raise ValueError(f"`uniform` must be a share from 0 to 1, got {self.uniform}.")
        if self.hardest is not None and not 0 < self.hardest < 1:
            raise ValueError(
                f"`hardest` must be a share above 0 and below 1, got {self.hardest}: give 0.25 to "
                "train on the hardest quarter for a while, None to have no such epochs."
            )
        for name, count in (
            ("hard_epochs", self.hard_epochs),
            ("mixed_epochs", self.mixed_epochs),
            ("warmup", self.warmup),
        ):
            if count < 1 or count != int(count):
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {count}.")

    def is_warming_up(self, epoch: int) -> bool:
        """Whether an epoch is shuffled alone."""
        return epoch < self.warmup

    def is_hard(self, epoch: int) -> bool:
        """Whether an epoch is drawn from the hardest samples alone.

        Example:
            >>> drawing = Drawing(hardest=0.5, hard_epochs=1, mixed_epochs=2)
            >>> [epoch for epoch in range(8) if drawing.is_hard(epoch)]
            [3, 6]
        """
        if self.hardest is None or self.is_warming_up(epoch):
            return False
        return (epoch - self.warmup) % (self.mixed_epochs + self.hard_epochs) >= self.mixed_epochs


def check_size(size: float, *, replacement: bool) -> None:
    """Refuse epochs that cannot be drawn, or would be a shuffle whatever the losses.

    Raises:
        ValueError: If so.
    """
    if not size > 0:
        raise ValueError(f"`size` must be a share of the samples above 0, got {size}.")
    if not replacement and size >= 1:
        raise ValueError(
            "`size` must be below 1 without replacement: an epoch that holds each sample once is a "
            f"shuffle, whatever the losses; got {size}."
        )
