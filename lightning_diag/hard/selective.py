"""`SelectiveBackprop`: train on the hard part of each batch."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_diag._compat import (
    Callback,
    LightningModule,
    MisconfigurationException,
    StepOutput,
    Trainer,
)
from lightning_diag.hard.ranking import SELECTIONS, Selection, choose
from lightning_diag.hard.rows import are_rows, samples_of, take_rows
from lightning_diag.hard.scoring import score_step
from lightning_diag.hard.untouched import untouched
from lightning_diag.warning import warn

Unseen = Literal["raise", "random", "all"]
_SHARDED = ("DeepSpeedStrategy", "FSDPStrategy", "XLAFSDPStrategy", "ModelParallelStrategy")
"""Strategies that are refused, by name, as in both namespaces."""
_ATTRIBUTE = "training_step"


class _Step:
    """Stands before a strategy's training step, for all callbacks that make batches smaller.

    There, and not in the module: wrapped, compiled, copied or pickled, that stays as it is.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._own = vars(strategy).get(_ATTRIBUTE)
        self._call = strategy.training_step
        self.members: list[SelectiveBackprop] = []
        strategy.training_step = self

    @classmethod
    def of(cls, strategy: Any) -> _Step:
        """Return the one of a strategy, made if there is none."""
        found = vars(strategy).get(_ATTRIBUTE)
        return found if isinstance(found, cls) else cls(strategy)

    def leave(self, member: SelectiveBackprop) -> None:
        """Take one out; the last one leaves no trace."""
        self.members = [other for other in self.members if other is not member]
        if not self.members and vars(self._strategy).get(_ATTRIBUTE) is self:
            del self._strategy.training_step
            if self._own is not None:
                self._strategy.training_step = self._own

    def __call__(self, batch: Any, *rest: Any) -> Any:
        for member in self.members:
            batch = member.reduced(batch, rest)
        return self._call(batch, *rest)


class SelectiveBackprop(Callback):
    """Train on the samples of each batch that have the highest losses, and skip the others.

    Before each training step the whole batch is scored: the module's own `training_step` runs,
    without gradients, as far as its loss. Then the step is taken on the chosen samples alone. So
    make batches larger than those you would train on: ``batch_size / keep``. Nothing in the module
    changes.

    A scoring leaves nothing behind: no gradient, no logged value, no count in a metric, and
    running statistics and random states are what they were. It runs in training mode, as losses of
    some modules are computed in no other; dropout makes it noisy. What a step does before its loss
    to other attributes of the module is done twice. See `docs/hard-examples/selective.md` for
    whether it pays.

    On several ranks each chooses among its own samples, and as many. A run that is resumed chooses
    what the run would have chosen that was never interrupted.

    Args:
        keep: Share of the samples of a batch that are trained on, above 0 and at most 1.
        selection: ``hardest`` for the highest losses; ``sampled``, where any sample has a chance,
            which grows with the rank of its loss; ``random`` for any samples, unscored: what the
            others are to be compared with.
        start: Share of the optimizer steps of the training after which it begins, 0 to 1.
        end: Share after which it is over and whole batches are trained on, 0 to 1.
        every_n_batches: Choose in every n-th batch; others are trained on whole. At least 1.
        score: A function of module and batch that returns ``(samples,)``, higher where harder, in
            place of the training step.
        unseen: What to do where the losses of samples are not seen: ``raise``, or train on
            ``random`` samples or on ``all``, with a warning.
        seed: Of what is drawn.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If `score` is not a function.
        MisconfigurationException: When training begins, under manual optimisation, where parameters
            are split over ranks, where `start` or `end` needs a number of steps that is not known;
            at the first batch, where losses of samples are not seen, or whose samples cannot be
            told apart.

    Cost:
        One forward pass of the whole batch, and copies of all buffers.

    Example:
        >>> SelectiveBackprop(keep=0.25).keep
        0.25

    References:
        Jiang et al., Accelerating Deep Learning by Focusing on the Biggest Losers, 2019,
        arXiv:1910.00762.
    """

    def __init__(
        self,
        keep: float = 0.5,
        *,
        selection: Selection = "hardest",
        start: float = 0.0,
        end: float = 1.0,
        every_n_batches: int = 1,
        score: Callable[[Any, Any], Tensor] | None = None,
        unseen: Unseen = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"`keep` must be above 0 and at most 1, got {keep}.")
        if not 0 <= start < end <= 1:
            raise ValueError(
                f"`start` and `end` must be shares from 0 to 1, the first one lower, got {start} "
                f"and {end}."
            )
        if every_n_batches < 1 or every_n_batches != int(every_n_batches):
            raise ValueError(
                f"`every_n_batches` must be a whole number of at least 1, got {every_n_batches}."
            )
        for name, value, known in (
            ("selection", selection, SELECTIONS),
            ("unseen", unseen, ("raise", "random", "all")),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")
        if score is not None and not callable(score):
            raise TypeError(
                f"`score` must be a function of module and batch, got {type(score).__name__}."
            )
        self.keep, self.start, self.end = keep, start, end
        self.selection: Selection = selection
        self.every_n_batches = every_n_batches
        self.score, self.unseen, self.seed = score, unseen, seed
        self._forget()

    def _forget(self) -> None:
        self._step: _Step | None = None
        self._trainer: Any = None
        self._total = math.inf
        self._is_blind = False
        self._last: tuple[int, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stand before the training step."""
        self._leave()
        self._refuse(trainer, pl_module)
        self._trainer = trainer
        self._total = self._steps(trainer)
        self._step = _Step.of(trainer.strategy)
        self._step.members.append(self)

    def _refuse(self, trainer: Any, module: Any) -> None:
        sharded = [c.__name__ for c in type(trainer.strategy).__mro__ if c.__name__ in _SHARDED]
        if sharded:
            raise MisconfigurationException(
                f"SelectiveBackprop does not work with {sharded[0]}, which splits parameters over "
                "ranks: use strategy='ddp'."
            )
        if not module.automatic_optimization:
            raise MisconfigurationException(
                "SelectiveBackprop needs automatic optimisation: under manual optimisation a "
                "training step takes steps of its own while it is scored."
            )
        if "dataloader_iter" in inspect.signature(module.training_step).parameters:
            raise MisconfigurationException(
                "SelectiveBackprop needs a training step that is given a batch, not "
                "`dataloader_iter`."
            )

    def _steps(self, trainer: Any) -> float:
        """Return the optimizer steps of the whole training, where that matters."""
        if self.start == 0 and self.end == 1:
            return math.inf
        total = float(trainer.estimated_stepping_batches)
        if not 0 < total < math.inf:
            raise MisconfigurationException(
                f"`start` ({self.start}) and `end` ({self.end}) are shares of a training whose "
                "length is not known: limit it with Trainer(max_steps=...), or leave them out."
            )
        return total

    def reduced(self, batch: Any, rest: tuple[Any, ...]) -> Any:
        """Return what is to be trained on of a batch; called by what stands before the step."""
        index = self._trainer.fit_loop.total_batch_idx
        if self._last is None or self._last[0] != index:  # some optimizers take a step in parts
            is_due = self._is_on() and index % self.every_n_batches == 0
            self._last = (index, self._chosen(batch, rest, index) if is_due else batch)
        return self._last[1]

    def _is_on(self) -> bool:
        if self._is_blind and self.unseen == "all":
            return False
        done = 0.0 if self._total == math.inf else self._trainer.global_step / self._total
        return self.start <= done < self.end and self.keep < 1

    def _chosen(self, batch: Any, rest: tuple[Any, ...], index: int) -> Any:
        """Return the chosen samples of a batch, or all."""
        losses = self._losses(batch, rest)
        if isinstance(losses, str):
            self._take_note(losses)
            if self.unseen == "all":
                return batch
            losses = self._losses(batch, rest)
            if isinstance(losses, str):
                raise MisconfigurationException(f"SelectiveBackprop {losses}.")
        number = math.ceil(self.keep * len(losses) - 1e-9)  # 0.1 * 30 is a little above 3
        key = f"{self.seed} {index} {self._trainer.global_rank}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
        generator = torch.Generator().manual_seed(seed)
        chosen = choose(losses, number, self.selection, generator)
        return take_rows(batch, chosen, len(losses))

    def _losses(self, batch: Any, rest: tuple[Any, ...]) -> Tensor | str:
        """Return the losses of samples, zeros if any samples will do; or why there are none."""
        if self.selection == "random" or self._is_blind:
            samples = samples_of(batch)
            problem = "cannot tell the samples of the batch apart: " + are_rows(batch, 1)
            return torch.zeros(samples) if samples else problem
        trainer = self._trainer
        module = trainer.lightning_module
        if self.score is None:
            return score_step(trainer, module, batch, rest)
        with untouched(trainer, module), trainer.precision_plugin.train_step_context():
            losses = self.score(module, batch)
        problem = are_rows(batch, len(losses))
        return f"got {len(losses)} losses from `score`, but {problem}" if problem else losses

    def _take_note(self, problem: str) -> None:
        """Say that losses are not seen, and go on without if that is wanted."""
        if self.unseen == "raise" or self._is_blind:
            raise MisconfigurationException(f"SelectiveBackprop {problem}.")
        self._is_blind = True
        what = "all samples" if self.unseen == "all" else "samples drawn at random"
        warn(f"SelectiveBackprop {problem}. Training goes on with {what}.")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Let go of the batch."""
        self._last = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the training step."""
        self._leave()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let go of the training step."""
        self._leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the training step."""
        self._leave()

    def _leave(self) -> None:
        if self._step is not None:
            self._step.leave(self)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the trainer behind: a copy chooses nothing yet."""
        return {**vars(self), "_step": None, "_trainer": None, "_last": None}
