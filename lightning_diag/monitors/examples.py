"""`WorstExamples`: the samples that the model is most wrong about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_diag.measure.base import CallMeasure, LossCall
from lightning_diag.measure.batch_samples import Samples
from lightning_diag.measure.examples import Example, ExampleMeasure, Look, look
from lightning_diag.measure.gathered import Batch
from lightning_diag.measure.gathered_lists import GatheredLists
from lightning_diag.measure.order import straight_order_of
from lightning_diag.measure.ranking import LOSS, MISTAKES, Ranked
from lightning_diag.measure.recent import Found, Key, Recent
from lightning_diag.measure.sample_loss import SampleLosses
from lightning_diag.measure.shown_lists import OfRanks, as_shown, by_key
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.measure.trend_lists import Lists
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.follower import Follower
from lightning_diag.probe.observer import Note, Stage
from lightning_diag.probe.probe import Probe
from lightning_diag.probe.run import Run
from lightning_diag.probe.sample_trends import SampleTrends
from lightning_diag.probe.validation import validation_orders

_KEPT = 16
"""Our choice: examples of a loss that are kept, a screen of them."""
_SPACING = 31
"""Our choice: steps between two looks, once that many were taken; before, each look comes when the
steps have doubled. A prime, lest the looks meet the same few batches of each epoch."""
_LOOKS = 32
"""Our choice: looks that examples are kept from."""
_PLACES = 4
"""Our choice: loss calls whose samples are looked at, the first ones."""
_LEAST_STEPS, _SHARE = 64, 8
"""Our choice: what is shown is renewed after 64 steps, or an eighth of the steps so far: it takes
milliseconds to write."""


class WorstExamples(Follower, Monitor):  # type: ignore[misc]  # the two Lightnings' Callback
    """Keep the samples with the highest loss: what the model is most wrong about (W13).

    Confident mistakes are often wrong labels, broken files or a bug in the preprocessing. Of
    training these are samples of watched steps in the newest half of the run, at most 32 looks; of
    validation those of the newest that was watched. They are kept as they entered the model, so
    augmented and normalised. Of each the loss, target, prediction with its probability, where it
    stood in its batch, its index in the data set (if the batch carries it as ``index``, ``idx`` or
    ``id``, or the data are read in order), and a picture of at most 32 x 32 pixels or its first 8
    numbers. Nothing is run twice.

    A validation is watched as a whole, or at 64 of its batches, evenly spread and others the next
    time. After the first one there are 16 training steps to each batch that is watched, so short
    intervals between validations leave some out; the last one is watched, where the length of the
    run tells that it is. Sanity checking is not. What a distributed sampler repeats counts once.

    Seen are cross-entropy (also per pixel or token, and of soft labels), negative log-likelihood,
    both binary cross-entropies, and squared, absolute, smooth and Huber distances; weights and
    label smoothing are left out.

    With `trends` every training batch is seen, and each sample is followed over the epochs in 18
    bytes, by its index: see docs/hard-examples/worst-examples.md. It then tells labels that are
    suspicious, samples that were never learnt, that were forgotten again, and the worst of the
    whole data set rather than of some steps. Nothing of the samples themselves is kept: those that
    are shown are read again when the fit has ended.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`. Samples are looked at in watched steps that are at least 31 apart.
        pictures: Whether to keep pictures or numbers of the samples themselves. Without, only
            losses, targets, predictions and positions are stored, and nothing is read again.
        trends: Whether to follow every sample of training. Put the monitor into the Trainer's
            callbacks for that, beside `Doctor` or alone: the monitors of `Doctor` see watched steps
            only.
        mistakes: Whether to show confident mistakes as well, the surest wrong answers, of training
            and of validation. `trends` shows those of training anyway.
        per_class: Samples of each class to show as well, those with the highest loss, 0 or more: of
            validation, and with `trends` of training; of the first 16 classes.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers. The history gets ``example/worst_loss`` and ``example/mean_loss``, and
        shows ``example/worst`` and ``example/worst_validation``, see docs/history.md: while the run
        goes on where one process trains, and at the end of epochs and validations, when ranks are
        joined.

    Raises:
        ValueError: If an argument is out of range; when a fit begins, if `trends` is asked of a
            monitor within `Doctor`.

    Cost:
        With `trends` see docs/hard-examples/worst-examples.md. Without:
        the loss once more, a sort of it and a copy of eight samples, on one step in 31, and of 16
        on watched batches of validations: about a millisecond each on a CPU.

    Example:
        >>> WorstExamples(pictures=False).pictures
        False
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        pictures: bool = True,
        trends: bool = False,
        mistakes: bool = False,
        per_class: int = 0,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        compiled_models: CompiledModels = "eager",
    ) -> None:
        super().__init__(
            every_n_steps,
            max_overhead=max_overhead,
            startup_seconds=startup_seconds,
            compiled_models=compiled_models,
            identity={"every_n_steps": every_n_steps},
        )
        if per_class < 0:
            raise ValueError(f"`per_class` must be 0 or more samples, got {per_class}.")
        self.pictures = pictures
        self.trends = trends
        self.mistakes = mistakes
        self.per_class = per_class
        self.courses = SampleTrends() if trends else None
        self._measure = ExampleMeasure(self._is_due, self._keep)
        self._next = self._show_next = 0
        self._forget()

    def _forget(self) -> None:
        self._run: Run | None = None
        self._batch: tuple[int, Samples] | None = None
        self._drawn_at: dict[int, Tensor] = {}
        self._places: set[str] = set()
        self._looks: list[Look] = []
        self._told: list[Look] = []
        self._looked = -1
        self._is_new = False
        self._recent = Recent(_LOOKS, _KEPT)
        self._valid: Batch | None = None
        self._gathered: GatheredLists | None = None
        self._validated_at = 0

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        if self.trends and not self.is_hooked:
            raise ValueError(
                "`WorstExamples(trends=True)` must see every batch, and the monitors of `Doctor` "
                "see some: put it into the Trainer's `callbacks`, beside `Doctor`."
            )
        self._forget()
        self._run = run

    # -- a watched step ----------------------------------------------------------------------

    def call_measures(self) -> Sequence[CallMeasure]:
        """See `Observer.call_measures`."""
        return (self._measure,)

    def _is_due(self) -> bool:
        return self._run is not None and self._run.step >= self._next

    def batch_started(self, batch: Any, batch_idx: int) -> None:
        """See `Observer.batch_started`."""
        if self._run is not None and self._is_due():
            self._batch = (batch_idx, Samples(batch))
            drawn = self.positions(self._run.trainer)
            if drawn is not None:
                self._drawn_at[batch_idx] = drawn

    def _keep(self, call: LossCall, found: SampleLosses) -> None:
        """Take the worst samples of a call down; they are told once they are on the host."""
        if self._batch is None or (call.place not in self._places and len(self._places) >= _PLACES):
            return
        self._places.add(call.place)
        number, samples = self._batch
        content = self.pictures
        self._looks.append(look(call, found, samples, number, with_content=content))
        is_followed = self.courses is not None and call.place == self.courses.place
        scores = Ranked(call, found).mistakes() if self.mistakes and not is_followed else None
        if scores is not None:
            self._looks.append(
                look(
                    call,
                    found,
                    samples,
                    number,
                    with_content=content,
                    scores=scores,
                    kind=MISTAKES,
                )
            )

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        self._batch = None
        self._told, self._looks = self._looks, []  # the next step may begin before these are told
        if self._run is not None and self._is_due():
            self._looked = self._run.step  # on every rank, whatever it has seen
            self._next = self._looked + min(_SPACING, 1 + self._looked)
            self._is_new = True

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        looks, self._told = self._told, []
        if looks:
            facts = {"step": step, "rank": int(run.trainer.global_rank)}
            self._recent.add(looks, facts, self._index)
        self._drawn_at = {}
        if not looks:
            return Digest()
        if run.ranks == 1 and step >= self._show_next:
            self._show({key: [found] for key, found in self._recent.worst(self._looked).items()})
        values = summarised(self._measure, joined, self.tag)
        return Digest({metric: numbers for metric, numbers in values.items() if numbers})

    def _index(self, one: Example) -> int | None:
        """Return the position in the data set of a sample, as its batch or its loader tells it."""
        run, known = self._run, one["index"]
        if known is not None or run is None:
            return None if known is None else int(known)
        drawn = self._drawn_at.get(one["batch"])
        if drawn is not None:
            return int(drawn[one["sample"]]) if one["sample"] < len(drawn) else None
        order = None if run.ranks > 1 else straight_order_of(run.trainer.train_dataloader)
        return None if order is None else order.index_of(one["batch"], one["sample"])

    # -- a watched batch of a validation -----------------------------------------------------

    def validation_started(self, batch: Any, batch_idx: int, loader: int, step: int) -> None:
        """See `Observer.validation_started`."""
        self._valid, self._validated_at = Batch(batch_idx, loader, Samples(batch)), step
        if self._gathered is None:
            self._gathered = GatheredLists(
                _KEPT,
                _PLACES,
                with_content=self.pictures,
                mistakes=self.mistakes,
                per_class=self.per_class,
            )

    def validation_loss(self, call: LossCall) -> None:
        """See `Observer.validation_loss`."""
        if self._valid is not None and self._gathered is not None:
            self._gathered.add(call, self._valid)

    def _validated(self, run: Run) -> tuple[int, dict[Key, Found]] | None:
        """Return the step and what was found of a validation, by list; None if unwatched."""
        gathered, self._gathered, self._valid = self._gathered, None, None
        if gathered is None:
            return None
        facts = {"step": self._validated_at, "rank": int(run.trainer.global_rank)}
        return self._validated_at, gathered.told(validation_orders(run.trainer), facts)

    # -- what is shown -----------------------------------------------------------------------

    def note(self, stage: Stage) -> Any:
        """See `Observer.note`."""
        if self._run is None:
            return None
        found: dict[str, Any] = {}
        is_last = stage == "epoch" and _ends(self._run.trainer)
        if self._is_new and (is_last or self._looked >= self._show_next):
            found["train"] = self._recent.worst(self._looked)
        validated = self._validated(self._run) if stage == "validation" else None
        if validated is not None:
            found["validation"] = validated
        if stage == "epoch":
            trainer = self._run.trainer
            followed = self.followed_lists(trainer, self.per_class, with_content=self.pictures)
            found.update({} if followed is None else {"trends": followed})
        return found or None

    def noted(self, stage: Stage, of_ranks: Sequence[Any]) -> Note:
        """See `Observer.noted`."""
        trained = [rank["train"] for rank in of_ranks if "train" in rank]
        if trained:
            self._show(by_key(trained))
        for followed in (rank["trends"] for rank in of_ranks if "trends" in rank):
            self._enter_lists(followed)
        validated = [rank["validation"] for rank in of_ranks if "validation" in rank]
        if not validated:
            return Note()
        of_lists = by_key([found for _, found in validated])
        self._enter("_validation", max(step for step, _ in validated), of_lists, self.per_class)
        places = [place for kind, place in of_lists if kind == LOSS]
        return Note(meta={"examples": {"validation": places}})

    def _show(self, of_ranks: OfRanks) -> None:
        """Enter the worst examples of training in the history."""
        self._enter("", self._looked, of_ranks)
        self._is_new = False
        self._show_next = self._looked + max(_LEAST_STEPS, self._looked // _SHARE)

    def _enter_lists(self, followed: Lists) -> None:
        """Enter the samples that are followed in the history, by what is said of them."""
        history = None if self._run is None else Probe.of(self._run.trainer).history
        if history is None or self._run is None or self.courses is None:
            return
        step = max(0, int(self._run.step) - 1)
        for name, content in followed.items():
            facts = {"step": step, **dict.fromkeys(("batch", "sample", "rank"))}
            content["examples"] = [{**facts, **one} for one in content["examples"]]
            history.show(name, self.courses.place, step, content)

    def _enter(self, suffix: str, step: int, of_ranks: OfRanks, per_class: int = 0) -> None:
        """Enter lists in the history."""
        history = None if self._run is None else Probe.of(self._run.trainer).history
        if history is None:
            return
        stage = suffix.strip("_") or "train"
        for (kind, place), (samples, found) in as_shown(of_ranks, _KEPT, per_class).items():
            if not suffix and self.courses is not None and place == self.courses.place:
                continue  # shown are the worst of all samples, not of those in watched steps
            if found:
                content = {"stage": stage, "samples": samples, "examples": found}
                history.show(f"example/{kind}{suffix}", place, step, content)

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        state: dict[str, Any] = {"next": self._next, "show_next": self._show_next}
        if self.courses is not None:
            state.update(show_epoch=self.show_epoch, courses=self.courses.state_dict())
        return state

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._next = int(state.get("next", 0))
        self._show_next = int(state.get("show_next", 0))
        self.show_epoch = int(state.get("show_epoch", 0))
        if self.courses is not None:
            self.courses.load_state_dict(state.get("courses", {}))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run and its samples behind."""
        state = {**super().__getstate__(), "_run": None, "_batch": None}
        state.update(_valid=None, _gathered=None, _drawn_at={}, _recent=Recent(_LOOKS, _KEPT))
        return {**state, "_looks": [], "_told": []}


def _ends(trainer: Any) -> bool:
    """Whether the fit is at its end, or in its last epoch."""
    epochs = trainer.max_epochs
    in_last = epochs is not None and 0 < epochs <= trainer.current_epoch + 1
    at_last = 0 < trainer.max_steps <= trainer.global_step
    return bool(trainer.should_stop or in_last or at_last)
