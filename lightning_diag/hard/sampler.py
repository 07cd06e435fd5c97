"""`OHEMSampler`: draws hard samples more often, alike on every rank (H4, P16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_diag.hard import draw
from lightning_diag.hard.drawing import By, Drawing, check_size
from lightning_diag.hard.noted import Notes, updated
from lightning_diag.measure.tally import own_rank, rows_of_all

_CHUNK = 1 << 16
"""Our choice: indices that are made Python numbers at a time."""


class OHEMSampler(DistributedSampler[int]):
    """Draws the samples of an epoch by the losses that they had in the epochs before.

    The chance of a sample comes from the rank of its loss (or from the loss), mixed with equal
    chances, so that no sample starves. Losses are exponential moving averages over epochs; one that
    is old fades towards the average, and a sample that was never seen counts as the hardest. Until
    there are losses, and in `warmup` epochs, an epoch is an ordinary shuffle.

    Every rank holds the same losses, draws the same epoch and takes its own part of it: all parts
    have the same length, and together they are what one process draws with the same seed, but for
    the last ``length % ranks`` draws, which are left out. It is a `DistributedSampler`, so
    Lightning neither replaces nor wraps it.

    With Lightning, `OHEMSampling` does all that follows. In a loop of one's own: call `set_epoch`
    before an epoch, `note` behind each batch, and `end_epoch` on all ranks.

    Args:
        data: The data set, or the number of its samples.
        by: ``rank``: a chance is exp(rank / temperature), where ranks go from 0 to 1; ``loss``: it
            is loss ^ (1 / temperature).
        temperature: Above 0; the higher, the more alike are chances. Our choice of 0.5: the hardest
            sample comes e^2 = 7.4 times as often as the easiest one, before `uniform`.
        uniform: Share of draws that fall on all samples alike, from 0 to 1; 1 is a shuffle. Our
            choice of 0.2: the easiest sample is drawn once in five epochs or more.
        replacement: Whether a sample may come more than once in an epoch. Without, `size` must be
            below 1.
        size: Draws of an epoch (of all ranks), as a share of the samples, above 0.
        smoothing: Share of the old average that a new loss leaves, from 0 to below 1 (our choice).
        half_life: Epochs after which a loss counts half as far from the average if the sample was
            not seen again, above 0; None forgets nothing.
        hardest: Share of samples that hard epochs train on; None has no such epochs. Hard epochs
            are as long as others: their samples come several times.
        hard_epochs: Hard epochs in a row, at least 1.
        mixed_epochs: Other epochs between them, at least 1.
        warmup: Epochs at the beginning that are shuffled alone, at least 1.
        keep_classes: Whether each class keeps its share of the draws, as far as classes are noted.
        seed: The same on all ranks.
        pool: Positions that may be drawn, as of a subset; None is all.
        num_replicas: Number of ranks; None asks torch when the sampler is used.
        rank: This one; None as well.
        takes_seed: Whether each pass takes one number from torch's own random state, as the
            sampler of ``DataLoader(shuffle=True)`` does, so that all other random numbers stay.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        8 bytes a sample (12 with `keep_classes`), and as many again for the losses of the epoch
        under way. Drawing 10 million samples takes 1.4 s on one core.

    Example:
        >>> sampler = OHEMSampler(4, hardest=0.5, mixed_epochs=1)
        >>> sampler.note(torch.tensor([0, 1, 2, 3]), torch.tensor([0.1, 2.0, 0.2, 3.0]))
        >>> sampler.end_epoch()
        >>> sampler.set_epoch(2)  # after one epoch to warm up and a mixed one
        >>> sorted(sampler)
        [1, 1, 3, 3]

    References:
        Loshchilov and Hutter, Online Batch Selection for Faster Training of Neural Networks, 2015,
        arXiv:1511.06343 (chances by rank); Schaul et al., Prioritized Experience Replay, 2015,
        arXiv:1511.05952 (importance weights, new samples first).
    """

    def __init__(
        self,
        data: Sized | int,
        *,
        by: By = "rank",
        temperature: float = 0.5,
        uniform: float = 0.2,
        replacement: bool = True,
        size: float = 1.0,
        smoothing: float = 0.5,
        half_life: float | None = 8.0,
        hardest: float | None = None,
        hard_epochs: int = 1,
        mixed_epochs: int = 3,
        warmup: int = 1,
        keep_classes: bool = False,
        seed: int = 0,
        pool: Sequence[int] | Tensor | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
        takes_seed: bool = False,
    ) -> None:
        self.how = Drawing(
            by=by,
            temperature=temperature,
            uniform=uniform,
            replacement=replacement,
            half_life=half_life,
            hardest=hardest,
            hard_epochs=hard_epochs,
            mixed_epochs=mixed_epochs,
            warmup=warmup,
        )
        check_size(size, replacement=replacement)
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be from 0 to below 1, got {smoothing}.")
        samples = data if isinstance(data, int) else len(data)
        self.size, self.smoothing, self.keep_classes = size, smoothing, keep_classes
        self.pool = None if pool is None else torch.as_tensor(pool, dtype=torch.int64)
        self._given, self._takes_seed = (rank, num_replicas), takes_seed
        ranks = (own_rank()[1] if num_replicas is None else num_replicas) or 1
        super().__init__(range(samples), ranks, rank or 0, seed=seed)  # type: ignore[arg-type]
        places = samples if self.pool is None else len(self.pool)
        self.draws = max(min(1, places), round(size * places))
        """Samples of an epoch, of all ranks."""
        self.losses = torch.full((samples,), torch.nan)
        """``(samples,)``: moving averages; NaN where never seen."""
        self.seen_at = torch.zeros(samples, dtype=torch.int32)
        """``(samples,)``: the epoch in which each sample was seen last."""
        self.classes = torch.full((samples if keep_classes else 0,), -1, dtype=torch.int32)
        self.left_out = 0
        """Losses that were not finite, in the epoch before."""
        self._notes = Notes()
        self._restored: Tensor | None = None
        self._begin: tuple[int, int] = (-1, 0)
        self._importance: tuple[int, Tensor] | None = None
        self._place()

    def begin_at(self, position: int) -> None:
        """Let passes of this epoch begin after so many of this rank's samples."""
        self._begin = (self.epoch, position)

    def _place(self) -> tuple[int, int]:
        """Return this rank and the number of ranks: a sampler may be made before there are any."""
        found = own_rank()
        rank, ranks = (b if a is None else a for a, b in zip(self._given, found, strict=True))
        self.rank, self.num_replicas = rank, ranks
        self.num_samples = self.draws // ranks
        self.total_size = self.num_samples * ranks
        return rank, ranks

    def __len__(self) -> int:
        """Return the draws of one rank in an epoch."""
        self._place()
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """Draw an epoch, and give this rank's part of it."""
        if self._takes_seed:
            torch.empty((), dtype=torch.int64).random_()
        rank, ranks = self._place()
        epoch, begin = self._begin
        own = self.draw()[: self.total_size][rank::ranks]
        for chunk in own[begin if epoch == self.epoch else 0 :].split(_CHUNK):
            yield from chunk.tolist()

    def draw(self) -> Tensor:
        """Return the samples of the epoch that was set, of all ranks.

        Shape:
            ``(draws,)``, int64, in the order in which ranks take turns.
        """
        if not self.draws:
            return torch.zeros(0, dtype=torch.int64)
        numbers = draw.generator(self.seed, self.epoch)
        classes = self._classes() if self.keep_classes and not self._is_plain() else None
        found = draw.drawn(self._expectation(), self.draws, numbers, classes)
        return found if self.pool is None else self.pool[found]

    def _is_plain(self) -> bool:
        """Whether the epoch is shuffled alone."""
        return self.how.is_warming_up(self.epoch) or bool(self.losses.isnan().all())

    def _expectation(self) -> Tensor:
        """Return how often each sample of the pool is expected in the epoch."""
        if self._is_plain():
            samples = len(self.losses) if self.pool is None else len(self.pool)
            alike = torch.full((samples,), 1 / samples, dtype=torch.float64)
            return draw.expected(alike, self.draws, replacement=self.how.replacement)
        losses, seen_at = self._of_pool(self.losses), self._of_pool(self.seen_at)
        classes = self._classes() if self.keep_classes else None
        uniform = self.how.uniform
        if self.how.hardest is not None and self.how.is_hard(self.epoch):
            weight: Tensor = draw.hardest(losses, self.how.hardest, classes).to(torch.float32)
            uniform = 0.0
        else:
            weight = draw.weights(losses, self.epoch - 1 - seen_at, self.how)
        chance = draw.chances(weight, uniform, classes)
        return draw.expected(chance, self.draws, replacement=self.how.replacement)

    def _of_pool(self, column: Tensor) -> Tensor:
        return column if self.pool is None else column[self.pool]

    def _classes(self) -> Tensor:
        """Return the class of each sample of the pool from 0, with one for those not known."""
        return self._of_pool(self.classes).to(torch.int64) + 1

    def importance(self, indices: Tensor) -> Tensor:
        """Return weights that make up for drawing hard samples more often.

        The mean of weighted losses over an epoch estimates the mean over all samples without bias.

        Args:
            indices: ``(n,)`` samples that were drawn in the epoch that was set.

        Shape:
            ``(n,)``, float32: how often a sample comes in a shuffle over how often it is expected.
        """
        if self._importance is None or self._importance[0] != self.epoch:
            shuffled = self.draws / (len(self.losses) if self.pool is None else len(self.pool))
            found = (shuffled / self._expectation()).to(torch.float32)
            if self.pool is not None:
                found = torch.ones_like(self.losses).index_copy_(0, self.pool, found)
            self._importance = (self.epoch, found)
        return self._importance[1][indices]

    @property
    def effective_share(self) -> float:
        """How many samples the epoch that was set rests on, as a share of all, 0 to 1."""
        return draw.effective_share(self._expectation())

    # -- what is noted -----------------------------------------------------------------------

    def note(self, indices: Tensor, losses: Tensor, classes: Tensor | None = None) -> None:
        """Take note of the losses of a batch, without waiting for the device.

        Args:
            indices: ``(samples,)`` positions in the data set.
            losses: ``(samples,)``; those that are not finite are left out.
            classes: ``(samples,)``, whole numbers from 0, where each class keeps its share.
        """
        self._notes.add(indices, losses, classes if self.keep_classes else None)

    def end_epoch(self) -> None:
        """Enter what all ranks have noted in the table. Every rank must call this."""
        rows = rows_of_all(self._notes.rows())
        self._notes.clear()
        if self._restored is not None:
            rows, self._restored = torch.cat([self._restored, rows]), None
        self._enter(rows, self.epoch)

    def _enter(self, rows: Tensor, epoch: int) -> None:
        indices, bits, classes = rows.unbind(1)
        observed = bits.contiguous().view(torch.float32)
        self.left_out = updated(
            self.losses, self.seen_at, indices, observed, epoch, smoothing=self.smoothing
        )
        if self.keep_classes:
            known = classes >= 0
            self.classes[indices[known].to(torch.int64)] = classes[known]
        self._importance = None

    # -- state -------------------------------------------------------------------------------

    def state_dict(self, rows: Tensor | None = None, position: int = 0) -> dict[str, Any]:
        """Return the table, what was noted since, and where in the epoch this is.

        Args:
            rows: What `joined_rows` returned; None takes what this rank has noted alone.
            position: Samples of the epoch that this rank has trained on.
        """
        rows = self._with_restored(self._notes.rows()) if rows is None else rows
        return {
            "losses": self.losses.clone(),
            "seen_at": self.seen_at.clone(),
            "classes": self.classes.clone(),
            "epoch": self.epoch,
            "noted": rows.clone(),
            "position": position,
        }

    def joined_rows(self) -> Tensor:
        """Return what all ranks have noted in this epoch. Every rank must call this."""
        return self._with_restored(rows_of_all(self._notes.rows()))

    def _with_restored(self, rows: Tensor) -> Tensor:
        return rows if self._restored is None else torch.cat([self._restored, rows])

    def load_state_dict(self, state: Mapping[str, Any], *, continues: bool = True) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: The same on all ranks.
            continues: Whether the epoch goes on in its middle; else it has ended.

        Raises:
            ValueError: If it is that of another data set.
        """
        if len(state["losses"]) != len(self.losses):
            raise ValueError(
                f"the state is that of {len(state['losses']):,} samples, and the data set has "
                f"{len(self.losses):,}: train on the data that the state was saved with."
            )
        self.losses.copy_(state["losses"])
        self.seen_at.copy_(state["seen_at"])
        if self.keep_classes and len(state["classes"]):
            self.classes.copy_(state["classes"])
        self._notes.clear()
        self._importance = None
        epoch, rows = int(state["epoch"]), state["noted"]
        if continues:
            self.epoch, self._restored = epoch, rows
            self.begin_at(int(state["position"]))
        else:
            self._restored, self._begin = None, (-1, 0)
            self._enter(rows, epoch)
