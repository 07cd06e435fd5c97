"""`SampleTrends`: the course of every training sample, from what `SampleWatch` sees (W13)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_diag.measure.answers import Answers, answers
from lightning_diag.measure.tally import Tally, joining_ranks
from lightning_diag.measure.trends import Rows, Trends
from lightning_diag.probe.guard import Guard
from lightning_diag.probe.sample_watch import ADVICE, SampleWatch, Seen, parts_of_batches
from lightning_diag.warning import warn

_RETURNED = "training_step"
"""The place of losses that `training_step` returned."""


def shares_data(trainer: Any) -> bool:
    """Whether a position means the same sample on every rank.

    It does where a sampler spreads one data set over the ranks; ranks that bring data of their own
    have samples of their own at each position.
    """
    if joining_ranks(int(trainer.world_size)) == 1:
        return True
    loader = trainer.train_dataloader
    batches = getattr(loader, "batch_sampler", None)
    samplers = getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)
    return any(hasattr(sampler, "num_replicas") for sampler in samplers)


class _Told(NamedTuple):
    """What was seen of a loss call: numbers alone, since the call itself holds what is trained."""

    place: str
    indices: Tensor | None
    losses: Tensor
    answers: Answers | None


class _Pending(NamedTuple):
    """A batch on its way to the host."""

    indices: Tensor
    numbers: Tensor
    """``(5, samples)``: loss, margin, sure, given, predicted."""
    arrived: Any
    """The event that its copy is over, None if it is."""


class SampleTrends:
    """Follows every sample of a training set. Nothing waits for the device before an epoch ends.

    Of several losses of a batch one is followed: the first whose samples have a class each, else
    the first. Ranks join when an epoch or a validation ends, so that checkpoints written then hold
    all of it. What fails here is switched off with a warning, and training goes on.
    """

    def __init__(self) -> None:
        self.trends = Trends()
        self.place = ""
        """The loss call that is followed, empty as long as none was seen."""
        self._watch = SampleWatch(lambda seen: self._guard.run(self, self._note, seen))
        self._guard = Guard()
        self._trainer: Any = None
        self._batch: list[_Told] = []
        self._pending: deque[_Pending] = deque()
        self._has_warned = False
        self._is_shared: bool | None = None

    # -- what Lightning's hooks call ---------------------------------------------------------

    def fit_start(self, trainer: Any, module: Any) -> None:
        """Begin, before the fit makes its loaders."""
        self._guard, self._trainer, self._has_warned = Guard(), trainer, False
        self._is_shared = None
        self._batch, self._pending = [], deque()
        if parts_of_batches(trainer):
            self._has_warned = True
            warn(
                "WorstExamples(trends=True) follows no sample while SelectiveBackprop trains on a "
                "part of each batch: leave one of the two out."
            )
        self._watch.fit_start(trainer, module)

    def batch_start(self, batch: Any, batch_idx: int) -> None:
        """Look at a batch."""
        self._batch = []
        self._guard.run(self, self._watch.batch_start, batch, batch_idx)

    def pause(self) -> None:
        """Look away while backward runs."""
        self._watch.pause()

    def resume(self) -> None:
        """Look again."""
        self._watch.resume()

    def batch_end(self, outputs: Any) -> None:
        """Take down what was seen of the batch."""
        self._guard.run(self, self._watch.batch_end, outputs)
        self._guard.run(self, self._enter)

    def join(self) -> None:
        """Join ranks. Every rank must call this."""
        if self._trainer is None:
            return
        rows = self._guard.run(self, self._own)
        tally = Tally(
            joining_ranks(int(self._trainer.world_size)), self._trainer.strategy.root_device
        )
        of_ranks = tally.all_of((self.place, rows))
        self.place = next((place for place, _ in of_ranks if place), "")
        self._guard.run(self, self.trends.merge, [rows for _, rows in of_ranks])

    def let_go(self) -> None:
        """Detach everything. May be called at any time, and again."""
        self._watch.let_go()
        self._trainer, self._batch = None, []

    # -- from a batch to rows ----------------------------------------------------------------

    def _note(self, seen: Seen) -> None:
        found = None if seen.call is None else answers(seen.call)
        if found is not None and len(found.margin) != len(seen.losses):
            found = None
        if self._is_shared is None:
            self._is_shared = shares_data(self._trainer)
        place = _RETURNED if seen.call is None else seen.call.place
        indices = seen.indices if self._is_shared else None
        self._batch.append(_Told(place, indices, seen.losses, found))

    def _enter(self) -> None:
        """Send the numbers of the loss that is followed to the host."""
        batch, self._batch = self._batch, []
        known = [told for told in batch if told.indices is not None]
        if not known:
            self._warn(is_seen=bool(batch))
            return
        if not self.place:
            self.place = next((one for one in known if one.answers), known[0]).place
        chosen = next((one for one in known if one.place == self.place), None)
        if chosen is None or chosen.indices is None:
            return
        numbers = _stacked(chosen)
        on_host = numbers if numbers.device.type == "cpu" else _sent(numbers)
        self._pending.append(_Pending(chosen.indices, on_host, _event(numbers.device)))
        while self._pending and _is_there(self._pending[0].arrived):
            self._keep(self._pending.popleft())

    def _keep(self, arrived: _Pending) -> None:
        loss, margin, sure, given, predicted = arrived.numbers
        self.trends.add(Rows(arrived.indices, loss, margin, sure, given, predicted))

    def _drain(self) -> None:
        while self._pending:
            pending = self._pending.popleft()
            if pending.arrived is not None:
                pending.arrived.synchronize()
            self._keep(pending)

    def _own(self) -> Rows | None:
        self._drain()
        return self.trends.take()

    def _warn(self, *, is_seen: bool) -> None:
        """Say once what is missing."""
        if self._has_warned:
            return
        self._has_warned = True
        if is_seen:
            warn(
                "WorstExamples(trends=True) cannot tell which samples a batch holds, so it follows "
                "none: use one DataLoader of torch with a data set that has `__getitem__`, and "
                "where several processes train, a sampler that spreads it over them."
            )
        else:
            reason = self._watch.reason
            warn(f"WorstExamples(trends=True) sees no loss of single samples{reason}: {ADVICE}.")

    # -- a checkpoint ------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that is known so far, in tensors and plain values."""
        self._guard.run(self, self._drain)
        return {"place": self.place, "trends": self.trends.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; without it, begin anew."""
        self.trends, self.place = Trends(), str(state.get("place", ""))
        if "trends" in state:
            self.trends.load_state_dict(state["trends"])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {"state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin as a copy that watches nothing yet."""
        self.__init__()  # type: ignore[misc]  # a new one, with what the other knew
        self.load_state_dict(state["state"])


def _stacked(told: _Told) -> Tensor:
    """Return the numbers of a batch: ``(5, samples)``; NaN and -1 where samples have no class."""
    losses, found = told.losses, told.answers
    if found is None:
        nothing = torch.full_like(losses, -1.0)
        return torch.stack([losses, torch.zeros_like(losses), nothing, nothing, nothing])
    numbers = found.margin, found.sure, found.given, found.predicted
    return torch.stack([losses, *(x.to(losses.dtype) for x in numbers)])


def _sent(x: Tensor) -> Tensor:
    host = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=x.device.type == "cuda")
    return host.copy_(x, non_blocking=x.device.type == "cuda")


def _event(device: torch.device) -> Any:
    """Return what tells when the copies so far are over, None if they are."""
    if device.type != "cuda":
        return None
    event: Any = torch.cuda.Event()
    event.record()
    return event


def _is_there(arrived: Any) -> bool:
    return arrived is None or bool(arrived.query())
