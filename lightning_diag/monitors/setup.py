"""`SetupMonitor`: frozen parts that change, modules in the wrong mode, ranks that drift apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_diag.measure.base import Columns, table
from lightning_diag.measure.modes import (
    FrozenNorm,
    ModeWatch,
    Trained,
    depends_on_mode,
    frozen_norms,
    mode_watches,
)
from lightning_diag.measure.replica import ReplicaMeasure
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.places import trained_modules
from lightning_diag.probe.run import OptimizerStep, Run

_EVERY = 16
"""Looks between two at statistics and ranks (our choice): what is wrong with them stays so."""
_EARLY = 4
"""One more look at the start, where most set-ups go wrong."""
_FROZEN, _MODE = "frozen", "mode"


class SetupMonitor(Monitor):
    """Check that what is frozen stands still, what is trained is in train mode, ranks agree.

    Frozen parameters that an optimizer holds can still move: by a gradient from before they were
    frozen, by momentum and by weight decay. The running statistics of a frozen batch norm move as
    long as it is in train mode (P3). Lightning keeps the eval mode that modules have when the fit
    begins, so a network that was loaded in it trains without dropout and with fixed statistics
    (P48). Parameters that are unfrozen after DDP has wrapped them are not averaged over ranks (P1).

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`. Modes and frozen parameters are checked at every look,
            statistics of norms and ranks at the first, the fifth and every sixteenth.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers; the history gets what is amiss, see docs/architecture.md.

    Cost:
        A copy of frozen parameters that still have a gradient, from before to after a watched step;
        two passes over the parameters at every sixteenth look, where there is more than one rank.

    Example:
        >>> SetupMonitor(every_n_steps=10).every_n_steps
        10
    """

    reaches_parameters: ClassVar[bool] = True

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
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
        self._replica = ReplicaMeasure()
        self._run: Run | None = None
        self._modes: dict[str, ModeWatch] = {}
        self._layers: list[nn.Module] = []
        self._norms: dict[str, FrozenNorm] = {}
        self._before: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
        self._looks = 0
        self._changed: set[str] = set()
        self._amiss: set[str] = set()
        self._has_frozen = self._compares_ranks = False

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._run = run
        known = trained_modules(run.module)
        self._modes = mode_watches(run.module, known)
        own = {id(module): module for module in run.module.modules() if _is_leaf(module)}
        self._layers = [own[key] for key in known if key in own]
        self._norms = frozen_norms(run.module, known)
        self._before.clear()
        self._compares_ranks = run.ranks > 1 and _keeps_replicas(run.trainer.strategy)

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.gradients`."""
        assert self._run is not None
        held = {
            place.name: place.parameter
            for place in self._run.places
            if not place.parameter.requires_grad and step.index in place.optimizers
        }
        self._has_frozen |= bool(held)
        self._before[step.index] = {
            name: (parameter, parameter.detach().clone())
            for name, parameter in held.items()
            if parameter.grad is not None and not hasattr(parameter, "to_local")
        }

    def stepped(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.stepped`."""
        rows = {
            name: (parameter.detach() != copy).any().double()
            for name, (parameter, copy) in self._before.pop(step.index, {}).items()
        }
        _add_flags(tally, self.tag + _FROZEN, rows)

    def skipped(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.skipped`."""
        self._before.pop(step.index, None)

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        look, self._looks = self._looks, self._looks + 1
        if self._run is None:
            return
        self._look_at_modes(self._run, tally)
        if look == _EARLY or look % _EVERY == 0:
            if look:
                # a moving average may need a few steps until its parameters are seen to move
                changed = {name: norm.has_changed() for name, norm in self._norms.items()}
                _add_flags(tally, self.tag + _FROZEN, changed)
            if self._compares_ranks:
                self._compare_ranks(self._run, tally)

    def _look_at_modes(self, run: Run, tally: Tally) -> None:
        if all(layer.training for layer in self._layers):
            return  # what no rank adds is 0
        trained = Trained(
            place.parameter
            for place in run.places
            if place.optimizers and place.parameter.requires_grad
        )
        flags = {name: float(watch.is_amiss(trained)) for name, watch in self._modes.items()}
        share = trained.share_in_eval(self._layers)
        _add_flags(tally, self.tag + _MODE, {"": share, **flags})

    def _compare_ranks(self, run: Run, tally: Tally) -> None:
        replicas = {
            place.name: place.parameter
            for place in run.places
            if place.optimizers and not hasattr(place.parameter, "to_local")
        }
        if replicas:
            columns = self._replica.observe(list(replicas.values()))
            tally.add(self.tag + "ReplicaMeasure", tuple(replicas), columns)

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest, modes = Digest(), {"": 0.0}
        for key, columns in joined.columns.items():
            if key.measure == self.tag + _FROZEN:
                flags = columns.maxima[:, 0].tolist()
                self._changed |= {n for n, f in zip(key.places, flags, strict=True) if f > 0}
            elif key.measure == self.tag + _MODE:
                modes = dict(zip(key.places, columns.maxima[:, 0].tolist(), strict=True))
            elif key.measure == self.tag + "ReplicaMeasure":
                digest.values.update(summarised(self._replica, joined, self.tag))
        self._put_modes(digest, modes)
        if self._norms or self._has_frozen or self._changed:
            digest.put("setup/frozen_changed", "", float(bool(self._changed)))
            for name in sorted(self._changed):
                digest.put("setup/frozen_changed", name, 1.0)
        return Digest({metric: values for metric, values in digest.values.items() if values})

    def _put_modes(self, digest: Digest, flags: dict[str, float]) -> None:
        """Name what is amiss, and what no longer is."""
        digest.put("setup/eval_share", "", flags.pop(""))
        amiss = {name for name, flag in flags.items() if flag > 0}
        digest.put("setup/eval_mode", "", float(bool(amiss)))
        self._amiss |= amiss
        for name in sorted(self._amiss):
            digest.put("setup/eval_mode", name, float(name in amiss))

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {
            "looks": self._looks,
            "changed": sorted(self._changed),
            "amiss": sorted(self._amiss),
            "has_frozen": self._has_frozen,
        }

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._looks = int(state.get("looks", 0))
        self._changed = set(state.get("changed", ()))
        self._amiss = set(state.get("amiss", ()))
        self._has_frozen = bool(state.get("has_frozen", False))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run and its modules behind."""
        return {
            **super().__getstate__(),
            "_run": None,
            "_modes": {},
            "_layers": [],
            "_norms": {},
            "_before": {},
        }


def _add_flags(tally: Tally, name: str, flags: Mapping[str, Tensor | float]) -> None:
    if flags:
        device = next((f.device for f in flags.values() if isinstance(f, Tensor)), None)
        column = table([(flag,) for flag in flags.values()], device or torch.device("cpu"))
        tally.add(name, tuple(flags), Columns(column.new_zeros(len(flags), 0), column))


def _is_leaf(module: nn.Module) -> bool:
    """Whether a module has parameters of its own, or another task in eval mode."""
    return depends_on_mode(module) or next(module.parameters(recurse=False), None) is not None


def _keeps_replicas(strategy: Any) -> bool:
    """Whether a strategy keeps the same parameters on every rank after every step."""
    names = {cls.__name__ for cls in type(strategy).__mro__}
    averages = getattr(strategy, "_model_averager", None)
    state = type(getattr(strategy, "_ddp_comm_state", None)).__name__
    return "DDPStrategy" in names and averages is None and state != "PostLocalSGDState"
