"""`WorstExamples`: the samples that the model is most wrong about."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning_diag.measure.base import CallMeasure, LossCall
from lightning_diag.measure.batch_samples import Samples
from lightning_diag.measure.examples import Example, ExampleMeasure, Look, examples, look, worst
from lightning_diag.measure.gathered import Batch, Found, Gathered
from lightning_diag.measure.order import straight_order_of
from lightning_diag.measure.sample_loss import SampleLosses, sample_losses
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.observer import Note, Stage
from lightning_diag.probe.probe import Probe
from lightning_diag.probe.run import Run
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
_NAMES = {"train": "example/worst", "validation": "example/worst_validation"}
"""What the history shows, by stage."""
_OfRanks = Mapping[str, Sequence[Found]]
"""Samples looked at and worst examples of each rank, by loss call."""


class _Found(NamedTuple):
    """The worst samples of one place at one step."""

    step: int
    place: str
    samples: int
    """Samples that were looked at."""
    examples: list[Example]


class WorstExamples(Monitor):
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

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`. Samples are looked at in watched steps that are at least 31 apart.
        pictures: Whether to keep pictures or numbers of the samples themselves. Without, only
            losses, targets, predictions and positions are stored.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers. The history gets ``example/worst_loss`` and ``example/mean_loss``, and
        shows ``example/worst`` and ``example/worst_validation``, see docs/history.md: while the run
        goes on where one process trains, and at the end of epochs and validations, when ranks are
        joined.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        The loss once more, a sort of it and a copy of eight samples, on one step in 31, and of 16
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
        self.pictures = pictures
        self._measure = ExampleMeasure(self._is_due, self._keep)
        self._next = self._show_next = 0
        self._forget()

    def _forget(self) -> None:
        self._run: Run | None = None
        self._batch: tuple[int, Samples] | None = None
        self._places: set[str] = set()
        self._looks: list[Look] = []
        self._told: list[Look] = []
        self._looked = -1
        self._is_new = False
        self._window: deque[_Found] = deque(maxlen=_LOOKS)
        self._valid: Batch | None = None
        self._gathered: Gathered | None = None
        self._validated_at = 0

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
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
        if self._is_due():
            self._batch = (batch_idx, Samples(batch))

    def _keep(self, call: LossCall, found: SampleLosses) -> None:
        """Take the worst samples of a call down; they are told once they are on the host."""
        if self._batch is None or (call.place not in self._places and len(self._places) >= _PLACES):
            return
        self._places.add(call.place)
        number, samples = self._batch
        self._looks.append(look(call, found, samples, number, with_content=self.pictures))

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
        if not looks:
            return Digest()
        facts = {"step": step, "rank": int(run.trainer.global_rank)}
        for place in dict.fromkeys(seen.place for seen in looks):
            of_place = [seen for seen in looks if seen.place == place]
            found = examples(of_place, facts)
            for one in found:
                one["index"] = self._index(one)
            samples = sum(seen.seen for seen in of_place)
            self._window.append(_Found(step, place, samples, found))
        if run.ranks == 1 and step >= self._show_next:
            self._show({place: [found] for place, found in self._worst().items()})
        values = summarised(self._measure, joined, self.tag)
        return Digest({metric: numbers for metric, numbers in values.items() if numbers})

    def _index(self, one: Example) -> int | None:
        """Return the position in the data set of a sample whose batch does not tell it."""
        run = self._run
        if one["index"] is not None or run is None or run.ranks > 1:
            known: int | None = one["index"]
            return known
        order = straight_order_of(run.trainer.train_dataloader)
        return None if order is None else order.index_of(one["batch"], one["sample"])

    # -- a watched batch of a validation -----------------------------------------------------

    def validation_started(self, batch: Any, batch_idx: int, loader: int, step: int) -> None:
        """See `Observer.validation_started`."""
        self._valid, self._validated_at = Batch(batch_idx, loader, Samples(batch)), step
        if self._gathered is None:
            self._gathered = Gathered(_KEPT, _PLACES, with_content=self.pictures)

    def validation_loss(self, call: LossCall) -> None:
        """See `Observer.validation_loss`."""
        found = sample_losses(call)
        if found is not None and self._valid is not None and self._gathered is not None:
            self._gathered.add(call, found, self._valid)

    def _validated(self, run: Run) -> tuple[int, dict[str, Found]] | None:
        """Return the step and what was found of a validation, by loss call; None if unwatched."""
        gathered, self._gathered, self._valid = self._gathered, None, None
        if gathered is None:
            return None
        facts = {"step": self._validated_at, "rank": int(run.trainer.global_rank)}
        return self._validated_at, gathered.told(validation_orders(run.trainer), facts)

    # -- what is shown -----------------------------------------------------------------------

    def _worst(self) -> dict[str, Found]:
        """Return samples looked at and worst examples of this rank, by loss call."""
        recent = [found for found in self._window if 2 * found.step >= self._looked]
        return {
            place: (
                sum(found.samples for found in recent if found.place == place),
                worst([e for f in recent if f.place == place for e in f.examples], _KEPT),
            )
            for place in dict.fromkeys(found.place for found in recent)
        }

    def note(self, stage: Stage) -> Any:
        """See `Observer.note`."""
        if self._run is None:
            return None
        found: dict[str, Any] = {}
        is_last = stage == "epoch" and _ends(self._run.trainer)
        if self._is_new and (is_last or self._looked >= self._show_next):
            found["train"] = self._worst()
        validated = self._validated(self._run) if stage == "validation" else None
        if validated is not None:
            found["validation"] = validated
        return found or None

    def noted(self, stage: Stage, of_ranks: Sequence[Any]) -> Note:
        """See `Observer.noted`."""
        trained = [rank["train"] for rank in of_ranks if "train" in rank]
        if trained:
            self._show(_by_place(trained))
        validated = [rank["validation"] for rank in of_ranks if "validation" in rank]
        if not validated:
            return Note()
        places = _by_place([found for _, found in validated])
        self._enter("validation", max(step for step, _ in validated), places)
        return Note(meta={"examples": {"validation": list(places)}})

    def _show(self, of_ranks: _OfRanks) -> None:
        """Enter the worst examples of training in the history."""
        self._enter("train", self._looked, of_ranks)
        self._is_new = False
        self._show_next = self._looked + max(_LEAST_STEPS, self._looked // _SHARE)

    def _enter(self, stage: str, step: int, of_ranks: _OfRanks) -> None:
        history = None if self._run is None else Probe.of(self._run.trainer).history
        for place, parts in of_ranks.items():
            found = worst([one for _, examples_of in parts for one in examples_of], _KEPT)
            if history is not None and found:
                samples = sum(count for count, _ in parts)
                content = {"stage": stage, "samples": samples, "examples": found}
                history.show(_NAMES[stage], place, step, content)

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {"next": self._next, "show_next": self._show_next}

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._next = int(state.get("next", 0))
        self._show_next = int(state.get("show_next", 0))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run and its samples behind."""
        state = {**super().__getstate__(), "_run": None, "_batch": None}
        state.update(_valid=None, _gathered=None)
        return {**state, "_looks": [], "_told": [], "_window": deque(maxlen=_LOOKS)}


def _by_place(of_ranks: Sequence[dict[str, Found]]) -> _OfRanks:
    places = dict.fromkeys(place for rank in of_ranks for place in rank)
    return {place: [rank[place] for rank in of_ranks if place in rank] for place in places}


def _ends(trainer: Any) -> bool:
    """Whether the fit is at its end, or in its last epoch."""
    epochs = trainer.max_epochs
    in_last = epochs is not None and 0 < epochs <= trainer.current_epoch + 1
    at_last = 0 < trainer.max_steps <= trainer.global_step
    return bool(trainer.should_stop or in_last or at_last)
