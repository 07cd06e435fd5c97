"""`Fit`: one fit under observation; it turns optimizer steps into records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_diag.measure.base import Call, CallMeasure, Columns
from lightning_diag.measure.tally import Pending, Tally
from lightning_diag.probe.clock import clock_for
from lightning_diag.probe.eager import EagerStep
from lightning_diag.probe.ending import Ending
from lightning_diag.probe.guard import Guard
from lightning_diag.probe.notes import NoteTaker
from lightning_diag.probe.observer import Observer, Stage, WatcherLike
from lightning_diag.probe.opening import earlier_state, joint_budget, open_recorder
from lightning_diag.probe.places import trained_modules
from lightning_diag.probe.run import Run
from lightning_diag.probe.schedule import Kind, Times, overhead
from lightning_diag.probe.steps import OptimizerSteps
from lightning_diag.probe.timing import StepTimer, charged
from lightning_diag.probe.validation import ValidationWatch, affordable
from lightning_diag.probe.waiting import FetchTimer
from lightning_diag.probe.watch import CallWatch
from lightning_diag.probe.writer import Cost, Writer
from lightning_diag.record import Record
from lightning_diag.warning import warn

_VALIDATION_BATCHES = 8
"""Our choice: batches of each validation that observers may look at."""
_PATIENCE = 16
"""Our choice: steps watched in a row to meet an optimizer that steps less often than others."""


class Fit:
    """Decides which steps are watched, watches them, and emits a record of each.

    On a step that is not watched every method is a test or two. By then the training step has
    emptied the processor's caches, and each function that is called costs a microsecond.

    Args:
        run: The trainer and its module.
        watchers: Whose observers take part.
    """

    def __init__(self, run: Run, watchers: Sequence[WatcherLike]) -> None:
        self._run = run
        self._watchers = watchers
        self.guard = Guard()
        self._budget = joint_budget(run, watchers)
        state = earlier_state(run, watchers)
        self._steps = self._steps_before = int(state.get("steps", run.step))
        self._watched = int(state.get("watched", 0))
        self._next = self._steps
        self._seconds_before = float(state.get("seconds", 0.0))
        self._began = time.perf_counter()
        self._ending = Ending(run)
        self._times = Times()
        self._extra = self._charged = float(state.get("extra", 0.0))
        self.timer = StepTimer(clock_for(run.device))
        self._fetches = FetchTimer(clock_for(run.device))
        self._tally = Tally(run.ranks, run.device)
        run.train_samples = run.pooled_samples(self._tally.all_of(run.count_samples()))
        self._optimizers = OptimizerSteps(run, state.get("counts", ()))
        self._pending: tuple[Pending, Record, int] | None = None
        self._watching = self._stepped = self._in_window = False
        self._waited = 0
        self._observers = self._prepared(fresh=not state)
        self._every_batch = self._that_take("batch_ended")
        self._of_batches = self._that_take("batch_started")
        self._attaching = self._that_take("let_go")
        self._notes = NoteTaker(self._observers, self.guard, self._tally)
        owned = [(one, measure) for one in self._observers for measure in one.call_measures()]
        self._owners: dict[int, Observer] = {id(measure): one for one, measure in owned}
        self._measures: list[CallMeasure] = [measure for _, measure in owned]
        self._eager = EagerStep(watchers[0].compiled_models)
        modules = trained_modules(run.module)
        self._watch = CallWatch(modules, self._measures, self._sink, self._look)
        self._validation = ValidationWatch(
            run,
            modules,
            self._observers,
            guard=self.guard,
            eager=self._eager,
            clock=clock_for(run.device),
            state=state.get("validation", {}),
        )
        self.recorder = open_recorder(run, watchers, state, self._tally, self._steps)
        self._writer = Writer(
            run,
            watchers,
            self._observers,
            guard=self.guard,
            recorder=self.recorder,
            watch=self._watch,
        )

    def _that_take(self, call: str) -> list[Observer]:
        """Return the observers that do something when they are called by this name."""
        nothing = getattr(Observer, call)
        return [one for one in self._observers if getattr(type(one), call) is not nothing]

    def _prepared(self, *, fresh: bool) -> list[Observer]:
        """Prepare all observers; those that cannot work here are left out with one warning."""
        strategy = self._run.unreachable_gradients
        ready: list[Observer] = []
        blind: list[str] = []
        alone = {type(watcher) for watcher in self._watchers if isinstance(watcher, Observer)}
        for watcher in self._watchers:
            for observer in watcher.observers:
                if id(observer) != id(watcher) and type(observer) in alone:
                    continue  # the one that the user added is enough
                observer.tag = f"{len(ready)}:"
                if fresh:
                    observer.load_observer_state({})
                if strategy is not None and observer.reaches_parameters:
                    blind.append(type(observer).__name__)
                    continue
                observer.prepare(self._run)
                ready.append(observer)
        if blind and self._run.is_first_rank:
            warn(
                f"Under {strategy} gradients and weights are out of reach, so "
                f"{' and '.join(blind)} will not observe anything in this fit."
            )
        return ready

    # -- what Lightning's hooks call, in this order ------------------------------------------

    @charged
    def batch_start(self, batch_idx: int, batch: Any = None) -> None:
        """Decide at the first micro-batch of a step whether to watch it."""
        if batch_idx == 0 or self._steps == self._steps_before:
            self._ending.begin_epoch()
            self._fetches.attach(self._run.fetcher)
        if not self._in_window:
            self._in_window = True
            self._watching = self._steps >= self._next or self._ending.reached(
                batch_idx, self._steps - self._steps_before
            )
            if self._watching or self.timer.is_engaged:
                self.timer.begin_step(watched=self._watching)
        if self.timer.active:
            self.timer.begin_batch()
        if self._watching and self._of_batches:
            with torch.no_grad():
                for observer in self._of_batches:
                    self.guard.run(observer, observer.batch_started, batch, batch_idx)
        if self._watching and self._measures and self._eager.allowed():
            self._eager.start()
            self._watch.start()

    def forward_pause(self) -> None:
        """Look away while backward runs."""
        if self._watching:
            self._watch.pause()

    def forward_resume(self) -> None:
        """Look again: with manual optimisation another forward pass may follow."""
        if self._watching and not self._run.automatic:
            self._watch.resume()

    @charged
    def before_step(self, optimizer: Any) -> None:
        """Count a step of `optimizer`, and show its gradients if it is watched."""
        if self._stepped and self._run.automatic:
            return  # LBFGS evaluates its closure several times within one step
        self._stepped = True
        index = self._optimizers.count(optimizer, self._steps)
        if self._watching and index is not None:
            self._watch.pause()
            with torch.no_grad():
                self._optimizers.watch(index, self._observers, self.guard, self._tally)
            self.forward_resume()

    @charged
    def batch_end(self, outputs: Any) -> None:
        """End a micro-batch, and with the step's last one the step."""
        if self._every_batch:
            loss, stepped = self._loss(outputs), self._stepped
            for observer in self._every_batch:
                self.guard.run(observer, observer.batch_ended, loss, stepped)
        if self._watching:
            self._let_go()
        if self._pending is not None:
            self._emit_pending()
        if self._stepped and self._watching:
            self._join()
        if self.timer.active:
            self.timer.end_batch()
        if self._stepped:
            if self.timer.active:
                self.timer.end_step()
            self._steps += 1
            self._stepped = self._in_window = self._watching = False

    def let_go(self) -> None:
        """Detach from a batch that was cut short."""
        self._let_go()
        self._optimizers.let_go()
        if not self._stepped:
            self._in_window = False

    def validation_start(self) -> None:
        """Leave what follows out of the time that training takes, and decide whether to watch."""
        self._fetches.interrupt()
        can = affordable(self._budget, self._steps, self._watched, self._times, self._extra)
        self._validation.begin(self._steps, affordable=can)

    def validation_batch(self, batch: Any, batch_idx: int, loader: int) -> None:
        """Show one of the first batches of the first loader, and watch the losses of some."""
        if batch_idx < _VALIDATION_BATCHES and loader == 0:
            with torch.no_grad():
                for observer in self._observers:
                    self.guard.run(observer, observer.validation_batch, batch, batch_idx)
        self._validation.batch_start(batch, batch_idx, loader)

    def validation_batch_end(self) -> None:
        """Look away from a batch of a validation."""
        self._validation.batch_end()

    def validation_end(self) -> None:
        """Enter the numbers of a validation, and ask again what they mean."""
        self.charge(self._validation.end())
        self._take_notes("validation")

    def epoch_noted(self) -> None:
        """Enter the numbers of the training epoch that has ended, if one has."""
        if self._steps > self._steps_before:
            self._take_notes("epoch")

    def _take_notes(self, stage: Stage) -> None:
        if self._pending is not None:
            self._emit_pending()  # records and notes come in the order of their steps
        if self._notes.take(stage, max(0, self._steps - 1), self.recorder.history):
            for watcher in self._watchers:
                self.guard.run(watcher, watcher.on_note)
        self._stop_if_wanted()

    def finish(self) -> None:
        """Emit what is still under way; training is over, and loggers still open."""
        self._let_go()
        if self._pending is not None:
            self._emit_pending()
        self.epoch_noted()
        self._writer.close()

    def detach(self) -> None:
        """Leave nothing attached, whatever happened."""
        self._fetches.detach()
        self._validation.let_go()
        self._let_go()
        self._optimizers.let_go()
        self._tally.drop()

    # -- from columns to records -------------------------------------------------------------

    def _let_go(self) -> None:
        self._watch.stop()
        self._eager.stop()
        for observer in self._attaching:
            observer.let_go()

    def _look(
        self, measure: CallMeasure, observe: Callable[[Call], Columns | None], call: Call
    ) -> Columns | None:
        return self.guard.run(self._owners[id(measure)], observe, call)

    def _sink(self, measure: CallMeasure, call: Call, columns: Columns) -> None:
        tag = self._owners[id(measure)].tag
        self._tally.add(tag + type(measure).__name__, (call.place,), columns)

    def _loss(self, outputs: Any) -> Tensor | None:
        """Return the loss of a micro-batch; Lightning has divided it by the accumulation."""
        is_mapping = type(outputs) is dict or isinstance(outputs, Mapping)  # the first is faster
        loss = outputs.get("loss") if is_mapping else outputs
        if not isinstance(loss, Tensor):
            return None
        if loss.requires_grad:
            loss = loss.detach()
        factor = self._run.trainer.accumulate_grad_batches
        return loss * factor if factor > 1 and self._run.automatic else loss

    def _join(self) -> None:
        """Join ranks, plan the next look, and turn the numbers into a record."""
        with torch.no_grad():
            awaited = self._optimizers.awaited(self._steps)
            self._optimizers.end_window(self._observers, self.guard, self._tally)
            for observer in self._observers:
                self.guard.run(observer, observer.collect, self._tally)
            times = self.timer.times()
            scalars = {**asdict(times), "seconds": self._seconds()}
            waited = self._fetches.share()
            scalars["extra"] = self._charged
            scalars["waited"] = -1.0 if waited is None else waited  # of the slowest rank
            for observer in self._observers:
                scalars[observer.tag] = float(self.guard.is_off(observer))
            pending = self._tally.join(scalars)
        self._watched += 1
        record = Record(
            step=self._steps,
            values={},
            epoch=int(self._run.trainer.current_epoch),
            optimizer_steps=tuple(self._optimizers.counts),
        )
        self._waited = self._waited + 1 if awaited else 0
        self._pending = (pending, record, self._run.step)
        if pending.asynchronous:
            self._plan()
        else:
            self._emit_pending()

    def _plan(self) -> None:
        """Choose the next step to watch, from times that all ranks know alike."""
        self._next = self._budget.next_step(self._steps, self._watched, self._times, self._extra)
        if 0 < self._waited <= _PATIENCE:
            self._next = self._steps + 1

    def _emit_pending(self) -> None:
        if self._pending is None:
            return
        began = time.perf_counter()
        (pending, stub, log_step), self._pending = self._pending, None
        joined = pending.wait()
        self._times = Times(**{kind: joined.scalars[kind] for kind in get_args(Kind)})
        self._extra = joined.scalars["extra"]
        for observer in self._observers:
            if joined.scalars[observer.tag] > 0:
                self.guard.silence(observer)  # what fails on one rank is silent on all
        if not pending.asynchronous:
            self._plan()
        share = overhead(stub.step + 1, self._watched, self._times, self._extra)
        cost = Cost(self._times, share, self._next - stub.step)
        self.charge(self._writer.write(stub, joined, cost, log_step))
        self._stop_if_wanted()
        if pending.asynchronous:
            self.timer.add_cost(time.perf_counter() - began)

    def _stop_if_wanted(self) -> None:
        """End the fit on all ranks if any watcher on any rank wants it to."""
        if any(watcher.may_stop for watcher in self._watchers):
            wanted = any(watcher.wants_stop for watcher in self._watchers)
            if self._tally.any(wanted):
                self._run.trainer.should_stop = True

    def charge(self, seconds: float) -> None:
        """Charge the budget with what a watcher on this rank spent besides looking."""
        self._charged += seconds

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        """Return counters, in plain values."""
        folder = self.recorder.folder
        return {
            "steps": self._steps + int(self._stepped),
            "watched": self._watched,
            "counts": list(self._optimizers.counts),
            "seconds": self._seconds(),
            "extra": self._charged,
            "validation": self._validation.state_dict(),
            "folder": None if folder is None else str(folder),
        }
