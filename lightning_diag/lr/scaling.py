"""`LinearScalingLR`: the learning rate follows the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightning_diag._compat import LightningModule, MisconfigurationException, StepOutput, Trainer
from lightning_diag.lr import checks
from lightning_diag.lr.apply import Adjustment
from lightning_diag.lr.batch import EffectiveBatch, batch_over_devices
from lightning_diag.lr.callback import LRCallback, say
from lightning_diag.lr.critical import beyond_critical, measured_noise_scale
from lightning_diag.lr.factors import SCALING_RULES, ScalingRule, ramp, scaling_factor
from lightning_diag.lr.length import accumulation_of, steps_of_epochs
from lightning_diag.lr.optimizers import family
from lightning_diag.warning import warn

_ASKED_EVERY = 50
"""Our choice: batches between two looks at the noise scale."""


@dataclass
class _Way:
    """The factor of one optimizer on its way to the newest target."""

    start: float = 1.0
    since: int = 0
    target: float = 1.0

    def at(self, t: int, steps: int) -> float:
        """Return the factor after `t` optimizer steps, if the way takes `steps` of them."""
        return ramp(t, since=self.since, steps=steps, start=self.start, target=self.target)


class LinearScalingLR(LRCallback):
    """Scale the learning rate with the batch size: k times the batch, k times the rate (L3, P15).

    The user's learning rate is that for steps of `base_batch_size` samples; steps are taken with it
    times ``effective / base_batch_size``, or the square root of that. The effective batch size is
    ``per device × devices × accumulated batches``; it is printed with the factor, and followed
    when it changes during training. Parameter groups hold the user's own rate, but during the
    steps, so that nothing is ever scaled twice: not by a second fit, nor by a resumed one, nor by
    Lightning's Tuner.

    Args:
        base_batch_size: Samples of the step that the learning rate was chosen for, at least 1.
        rule: ``linear``; ``sqrt``; or ``auto``: linear for SGD, square root for optimizers that
            divide by the size of past gradients (Adam, RMSprop, Adagrad, LAMB and the like).
        warmup: Optimizer steps in which the factor grows from 1 to its value, evenly, at least 0;
            also after each growth of the batch during training.
        warmup_epochs: The same in epochs of training, above 0; 5 in Goyal et al.
        batch_size: Samples of a batch on one device, at least 1; None reads it from the training's
            loader, and raises where that does not say.
        accumulation: Batches of one optimizer step, at least 1; None takes the Trainer's. Give it
            if you accumulate by yourself, with manual optimisation.
        critical_batch_size: Samples from which on the rule is known to break, above 0; a step of
            more is warned of once. None takes the noise scale that `Doctor` or
            `GradientNoiseMonitor` measures, if one is there.
        parameters: Only these parameter groups, see `WarmupLR`.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: When training begins, if the batch size or the rule would have
            to be guessed.

    Example:
        >>> LinearScalingLR(256, warmup_epochs=5).rule
        'auto'

    References:
        Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677 (linear, gradual
        warm-up). Krizhevsky, One weird trick for parallelizing convolutional neural networks,
        2014, arXiv:1404.5997, and Malladi et al., On the SDEs and Scaling Rules for Adaptive
        Gradient Algorithms, 2022, arXiv:2205.10287 (square root). McCandlish et al., An Empirical
        Model of Large-Batch Training, 2018, arXiv:1812.06162 (critical batch size).
    """

    def __init__(
        self,
        base_batch_size: int = 256,
        *,
        rule: ScalingRule = "auto",
        warmup: int = 0,
        warmup_epochs: float | None = None,
        batch_size: int | None = None,
        accumulation: int | None = None,
        critical_batch_size: float | None = None,
        parameters: str | list[str] | None = None,
    ) -> None:
        super().__init__(parameters)
        checks.whole("base_batch_size", base_batch_size, 1)
        checks.one_of("rule", rule, SCALING_RULES)
        checks.whole("warmup", warmup, 0)
        if warmup_epochs is not None:
            checks.positive("warmup_epochs", warmup_epochs)
            if warmup:
                message = "Give `warmup` (in steps) or `warmup_epochs`, not both."
                raise ValueError(message)
        for name, count in (("batch_size", batch_size), ("accumulation", accumulation)):
            if count is not None:
                checks.whole(name, count, 1)
        if critical_batch_size is not None:
            checks.positive("critical_batch_size", critical_batch_size)
        self.base_batch_size = base_batch_size
        self.rule: ScalingRule = rule
        self.warmup, self.warmup_epochs = warmup, warmup_epochs
        self.batch_size, self.accumulation = batch_size, accumulation
        self.critical_batch_size = critical_batch_size
        self._per_device: tuple[float, int] | None = None
        self._batch: EffectiveBatch | None = None
        self._ways: dict[int, _Way] = {}
        self._rules: dict[int, ScalingRule] = {}
        self._ramp_steps = 0
        self._has_warned = False

    @property
    def batch(self) -> EffectiveBatch | None:
        """The effective batch that is followed now, None before training."""
        return self._batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See `LRCallback.setup`."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._ways, self._rules = {}, {}
            self._batch = self._per_device = None
            self._has_warned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the batch size, and join the optimizers."""
        self._per_device = batch_over_devices(trainer, self.batch_size)
        self._ramp_steps = self.warmup
        if self.warmup_epochs is not None:
            epochs = self.warmup_epochs
            self._ramp_steps = steps_of_epochs(trainer, pl_module, epochs, "warmup_epochs")
        super().on_train_start(trainer, pl_module)
        self._follow(trainer)

    def adjustment(
        self, trainer: Any, module: Any, index: int, groups: list[int]
    ) -> Adjustment | None:
        """See `LRCallback.adjustment`."""
        self._rules[index] = self._rule_for(trainer, trainer.optimizers[index])
        way = self._ways.setdefault(index, _Way())

        def factor(t: int, group: int) -> float:
            return way.at(t, self._ramp_steps) if group in groups else 1.0

        return Adjustment(factor, until=0)

    def _rule_for(self, trainer: Any, optimizer: Any) -> ScalingRule:
        kind, name = family(optimizer), type(optimizer).__name__
        if self.rule == "linear" and kind == "adaptive" and trainer.is_global_zero:
            warn(
                f"LinearScalingLR(rule='linear') scales {name} linearly with the batch size, while "
                "the square root holds for optimizers that divide by the size of past gradients: "
                "use rule='auto', unless you have seen that linear works better here."
            )
        if self.rule != "auto":
            return self.rule
        if kind is None:
            raise MisconfigurationException(
                f"LinearScalingLR(rule='auto') does not know how {name} scales with the batch "
                "size: say rule='linear' or rule='sqrt'."
            )
        return "sqrt" if kind == "adaptive" else "linear"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the batch size again: loaders may be replaced between epochs."""
        self._per_device = batch_over_devices(trainer, self.batch_size)
        self._follow(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Follow the accumulation, which other callbacks may change."""
        self._follow(trainer)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def _follow(self, trainer: Any) -> None:
        """Head for the factor of the batch size as it is now."""
        if self._per_device is None:
            return
        accumulation = self.accumulation or accumulation_of(trainer)(trainer.current_epoch)
        batch = EffectiveBatch(*self._per_device, accumulation)
        if batch == self._batch:
            return
        self._batch = batch
        lines = []
        for index, (_, adjustment) in self._adjustments.items():
            rule = self._rules[index]
            target = scaling_factor(batch.size, self.base_batch_size, rule)
            way = self._ways[index]
            if target != way.target:
                way.start = way.at(adjustment.steps, self._ramp_steps)
                way.since, way.target = adjustment.steps, target
            adjustment.until = way.since + self._ramp_steps if target > way.start else way.since
            lines.append(self._describe(trainer, index, batch, rule, target))
        if lines:
            say(trainer, f"LinearScalingLR: effective batch size {batch}; {'; '.join(lines)}")
        self._compare(trainer)

    def _describe(
        self, trainer: Any, index: int, batch: EffectiveBatch, rule: str, target: float
    ) -> str:
        ratio = f"{batch.size:g} / {self.base_batch_size}"
        formula = f"sqrt({ratio})" if rule == "sqrt" else ratio
        name = type(trainer.optimizers[index]).__name__
        grows = self._ramp_steps and target > self._ways[index].start
        way = f", reached in {self._ramp_steps} optimizer steps" if grows else ""
        return f"{name} (optimizer{index}): lr × {target:g} = {formula} ({rule}){way}"

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the noise scale now and then."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if batch_idx % _ASKED_EVERY == _ASKED_EVERY - 1:
            self._compare(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the noise scale."""
        self._compare(trainer)

    def _compare(self, trainer: Any) -> None:
        """Warn once where the batch is beyond the critical size."""
        batch, base = self._batch, self.base_batch_size
        if self._has_warned or batch is None or batch.size <= base:
            return
        given = self.critical_batch_size
        critical = measured_noise_scale(trainer) if given is None else given
        if critical is None or batch.size <= critical:
            return
        self._has_warned = True
        if trainer.is_global_zero:
            source = "measured" if given is None else "given"
            warn(beyond_critical(batch.size, base, critical, source))

    def state_dict(self) -> dict[str, Any]:
        """See `LRCallback.state_dict`; with how far each factor has come."""
        ways = {str(index): asdict(way) for index, way in self._ways.items()}
        return {**super().state_dict(), "ways": ways}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `LRCallback.load_state_dict`."""
        super().load_state_dict(state_dict)
        for index, values in state_dict.get("ways", {}).items():
            way = self._ways.setdefault(int(index), _Way())
            way.start, way.since = float(values["start"]), int(values["since"])
            way.target = float(values["target"])
