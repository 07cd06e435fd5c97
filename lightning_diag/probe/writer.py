"""`Writer`: turns the joined numbers of a watched step into a record, and hands it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_diag.measure.tally import Joined
from lightning_diag.probe.guard import Guard
from lightning_diag.probe.observer import Digest, Observer, WatcherLike
from lightning_diag.probe.recorder import Recorder
from lightning_diag.probe.run import Run
from lightning_diag.probe.schedule import Times
from lightning_diag.probe.watch import CallWatch
from lightning_diag.record import Record


@dataclass(frozen=True)
class Cost:
    """What watching costs by now."""

    times: Times
    """Lengths of steps."""
    share: float | None
    """Of the training time so far; None while it is not known."""
    interval: int
    """Steps to the next look."""


class Writer:
    """Keeps, shows and logs the records of one fit.

    Args:
        run: The trainer and its module.
        watchers: Who is shown each record.
        observers: Whose numbers make it.
        guard: Switches off what fails.
        recorder: Where records are kept.
        watch: Knows the call sites found so far.
    """

    def __init__(
        self,
        run: Run,
        watchers: Sequence[WatcherLike],
        observers: Sequence[Observer],
        *,
        guard: Guard,
        recorder: Recorder,
        watch: CallWatch,
    ) -> None:
        self._run = run
        self._watchers = watchers
        self._observers = observers
        self._guard = guard
        self._recorder = recorder
        self._watch = watch
        self._sites_told = 0
        self._was_lazy = run.is_lazy
        recorder.history.update_meta(run.describe())

    def write(self, stub: Record, joined: Joined, cost: Cost, log_step: int) -> float:
        """Fill a record with numbers; keep it, show it to the watchers and log it.

        Args:
            stub: The record without numbers.
            joined: The numbers, of all ranks.
            cost: What watching costs.
            log_step: The trainer's step, for loggers.

        Returns:
            Seconds spent on what loggers get only now and then, such as heat maps.
        """
        self._tell_meta()
        record = self._filled(stub, joined, cost)
        self._recorder.keep(record, log_step)
        for watcher in self._watchers:
            self._guard.run(watcher, watcher.on_record, record)
        headline = self._headline(record)
        return self._guard.run(self._recorder, self._recorder.log, headline, record) or 0.0

    def close(self) -> None:
        """Show all layers; training is over, and loggers are still open."""
        self._guard.run(self._recorder, self._recorder.show_layers)

    def _tell_meta(self) -> None:
        """Enter what was not known when training began: shapes, and calls met since."""
        if self._was_lazy:
            self._was_lazy = self._run.is_lazy
            self._recorder.history.update_meta(self._run.describe())
        if len(self._watch.sites) > self._sites_told:
            self._sites_told = len(self._watch.sites)
            sites = {
                place: {
                    "function": function.name,
                    "kind": function.kind,
                    "module": place.rpartition("/")[0],
                }
                for place, function in self._watch.sites.items()
            }
            self._recorder.history.update_meta({"sites": sites})

    def _filled(self, stub: Record, joined: Joined, cost: Cost) -> Record:
        whole = Digest()
        for observer in self._observers:
            digest = self._guard.run(observer, observer.digest, joined, self._run, stub.step)
            if digest is not None:
                for metric, values in digest.values.items():
                    whole.values.setdefault(metric, {}).update(values)
                whole.dense.update(digest.dense)
                for metric, lists in digest.lists.items():
                    whole.lists.setdefault(metric, {}).update(lists)
        _add_cost(whole, cost)
        if joined.scalars["waited"] >= 0:
            whole.put("data/wait_fraction", "", joined.scalars["waited"])
        return replace(
            stub,
            values=whole.values,
            dense=whole.dense,
            lists=whole.lists,
            seconds=joined.scalars["seconds"],
        )

    def _headline(self, record: Record) -> dict[str, float]:
        scalars: dict[str, float] = {}
        for observer in self._observers:
            scalars.update(self._guard.run(observer, observer.headline, record.values) or {})
        for metric in ("data/wait_fraction", "overhead/fraction"):
            scalars[metric] = record.values.get(metric, {}).get("", float("nan"))
        return scalars


def _add_cost(digest: Digest, cost: Cost) -> None:
    for metric, seconds in (
        ("step_time/plain_seconds", cost.times.plain),
        ("step_time/watched_seconds", cost.times.watched),
    ):
        if seconds > 0:
            digest.put(metric, "", seconds)
    digest.put("overhead/interval_steps", "", float(cost.interval))
    if cost.share is not None:
        digest.put("overhead/fraction", "", cost.share)
