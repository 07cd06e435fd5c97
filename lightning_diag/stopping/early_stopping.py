"""`EarlyStoppingWindow`: Lightning's early stopping, decided by averages of a window."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_diag._compat import EarlyStopping, in_namespace_of
from lightning_diag.stopping.arguments import check_arguments, require_whole_weights
from lightning_diag.stopping.trend import (
    LEAST,
    Average,
    Level,
    Trend,
    level_of,
    needed,
    trend,
)
from lightning_diag.stopping.weights import copied, put_back

KEPT_WINDOWS = 12
"""Windows of values that are kept: older ones weigh nothing in an average, (1 - alpha)^(12 w) <
1e-9 for each window w."""


class EarlyStoppingWindow(EarlyStopping):
    """Stop when the average of a metric no longer improves, noise allowed for.

    Lightning's `EarlyStopping` compares single values, so that one lucky value stops a run that
    still improves, and another one prolongs a run that does not. Here the average over a window
    counts as improved when it is better than the best one by more than their standard errors
    explain. And while the newest values get better, however slowly, the run goes on.

    Nothing is decided before the window is full, except that a value that is not finite ends the
    run under `check_finite`, as Lightning has it; without it such a value is left out of the
    window and counts as no improvement. Ranks decide alike: values that differ are averaged over
    the ranks that logged them.

    Args:
        monitor: Name of the logged metric.
        window: Values that are averaged, at least 2: one for each check.
        average: ``mean`` of the newest `window` values, or ``ema``, which weighs all values by
            their age, with alpha = 2 / (window + 1).
        confidence: At which an improvement is no noise, 0.5 (noise is ignored) to below 1.
        trend_window: Newest values in which a trend to the better keeps the run going, at least
            10, as do fewer than 10 values; None asks for no trend. Our choice of 30: in 20 most
            slow falls of simulated curves were overlooked, see docs/learning-rate/stopping.md.
        patience: Checks without improvement after which the run stops, at least 1. Our choice of
            5: then the newest window has no value in common with the best one.
        min_delta: Change of the average that is no improvement yet, at least 0.
        mode: ``min`` or ``max``.
        restore_best: Whether the weights of the best check are put back when the fit ends,
            buffers included, also if it ends for another reason than this callback. Not after an
            exception or Ctrl+C.
        strict: Whether a metric that no rank has logged is an error.
        check_finite: Whether NaN or an infinite value stops the run.
        stopping_threshold: Average that is good enough to stop.
        divergence_threshold: Average that is bad enough to stop.
        check_on_train_epoch_end: Whether to check when the training epoch ends, else when
            validation does; None decides as Lightning does.
        verbose: Whether to say what was decided, through Lightning's logger.
        log_rank_zero_only: Whether only rank zero says it.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        Microseconds at each check. With `restore_best` one copy of all parameters and buffers in
        host memory of each process, made anew at each better check, and as much more in each
        checkpoint.

    Example:
        >>> stop = EarlyStoppingWindow("val_loss", patience=8, restore_best=True)
        >>> stop.monitor, stop.level
        ('val_loss', None)

    See Also:
        `lightning_diag.stopping.trend`: the averages, errors and trends as functions.
    """

    def __init__(
        self,
        monitor: str,
        *,
        window: int = 5,
        average: Average = "mean",
        confidence: float = 0.95,
        trend_window: int | None = 30,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] = "min",
        restore_best: bool = False,
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        verbose: bool = False,
        log_rank_zero_only: bool = False,
    ) -> None:
        check_arguments(
            window=window,
            average=average,
            confidence=confidence,
            trend_window=trend_window,
            patience=patience,
            min_delta=min_delta,
            mode=mode,
        )
        super().__init__(
            monitor,
            min_delta=min_delta,
            patience=patience,
            verbose=verbose,
            mode=mode,
            strict=strict,
            check_finite=check_finite,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
            check_on_train_epoch_end=check_on_train_epoch_end,
            log_rank_zero_only=log_rank_zero_only,
        )
        self.window = window
        self.average: Average = average
        self.confidence = confidence
        self.trend_window = trend_window
        self.restore_best = restore_best
        self.level: Level | None = None
        """The newest average, None before the window is full."""
        self.best_level: Level | None = None
        """The average of the last improvement."""
        self.best_step: int | None = None
        """Optimizer steps done at the check whose weights are kept."""
        self._values: list[float] = []
        self._lowest = math.inf
        self._weights: dict[str, Tensor] | None = None

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint."""
        key: str = self._generate_state_key(
            monitor=self.monitor, mode=self.mode, window=self.window, average=self.average
        )
        return key

    @property
    def trend(self) -> Trend:
        """Whether the metric rises or falls by more than noise, in the newest `trend_window`."""
        return trend(self._values, window=self.trend_window)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot work, before training."""
        super().setup(trainer, pl_module, stage)
        if self.restore_best and stage == "fit":
            require_whole_weights(trainer)

    def _run_early_stopping_check(self, trainer: Any) -> None:
        """Check once, on all ranks, with the same value."""
        if trainer.fast_dev_run:
            return
        value = self._joined_value(trainer)
        if value is None:
            self._validate_condition_metric(trainer.callback_metrics)
            return
        should_stop, reason = self._decide(value, trainer)
        # As in Lightning's: whoever wants to stop, stops all.
        should_stop = trainer.strategy.reduce_boolean_decision(should_stop, all=False)
        trainer.should_stop = trainer.should_stop or should_stop
        if should_stop:
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason_message = reason
            if hasattr(self, "stopping_reason"):  # from Lightning 2.6 on
                reason_of: Any = in_namespace_of(trainer, self.stopping_reason)
                self.stopping_reason = reason_of
        if reason and self.verbose:
            self._log_info(trainer, reason, self.log_rank_zero_only)

    def _joined_value(self, trainer: Any) -> float | None:
        """Return the metric, averaged over the ranks that have it; None if none has."""
        logged = trainer.callback_metrics.get(self.monitor)
        value = None if logged is None else float(logged)
        if trainer.world_size == 1:
            return value
        mine = [0.0, 0.0] if value is None else [1.0, value]
        joined = trainer.strategy.reduce(
            torch.tensor(mine, device=trainer.strategy.root_device), reduce_op="sum"
        )
        ranks, total = (float(number) for number in joined)
        return total / ranks if ranks else None

    def _decide(self, value: float, trainer: Any) -> tuple[bool, str | None]:
        """Take in a value; return whether to stop, and why."""
        if not math.isfinite(value):
            return self._judged(value, math.inf)
        sign = -1 if self.mode == "max" else 1
        self._values = [*self._values, value][-max(KEPT_WINDOWS * self.window, self._span()) :]
        self.level = level_of(self._values, self.window, average=self.average)
        if self.level is None:
            return False, None
        if sign * self.level.value < self._lowest:
            self._keep(trainer, sign * self.level.value)
        best = self.best_level
        noise = 0.0 if best is None else needed(self.level, best, self.confidence)
        return self._judged(self.level.value, noise)

    def _judged(self, value: float, noise: float) -> tuple[bool, str | None]:
        """Have Lightning judge an average that must be better by `noise` besides."""
        margin, before = self.min_delta, self.wait_count
        self.min_delta += math.copysign(noise, 1 if self.mode == "max" else -1)
        evaluate: Callable[[Tensor], tuple[bool, str | None]] = self._evaluate_stopping_criteria
        try:
            should_stop, reason = evaluate(torch.tensor(value, dtype=torch.float64))
        finally:
            self.min_delta = margin
        has_waited = self.wait_count > before
        if not has_waited and not should_stop and math.isfinite(value):
            self.best_level = self.level
        if should_stop and has_waited:
            return self._patience_over(reason)
        return should_stop, reason

    def _patience_over(self, reason: str | None) -> tuple[bool, str | None]:
        """Go on nevertheless while the values get better, however slowly, or are too few."""
        if self.trend_window is None:
            return True, reason
        found = self.trend
        better = "rising" if self.mode == "max" else "falling"
        if found.verdict in (better, "insufficient data"):
            self._unstop()
            return False, None
        return True, (
            f"{reason} Its trend over the newest {found.count} checks: {found.verdict} "
            f"(score {found.value:.2f}, threshold {found.threshold:.2f})."
        )

    def _unstop(self) -> None:
        if hasattr(self, "stopping_reason"):
            self.stopping_reason = type(self.stopping_reason)["NOT_STOPPED"]

    def _keep(self, trainer: Any, lowest: float) -> None:
        """Remember that no average was as good as this one, and the weights that made it."""
        self._lowest, self.best_step = lowest, trainer.global_step
        if self.restore_best:
            self._weights = None  # never two copies at once
            self._weights = copied(trainer.lightning_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Put the best weights back, after all that others do when training ends."""
        if self.restore_best and self._weights is not None:
            put_back(pl_module, self._weights)

    def _span(self) -> int:
        return self.trend_window or LEAST

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, and the best weights if they are to be restored."""
        return {
            **super().state_dict(),
            "values": list(self._values),
            "level": None if self.level is None else astuple(self.level),
            "best_level": None if self.best_level is None else astuple(self.best_level),
            "lowest": self._lowest,
            "best_step": self.best_step,
            **({} if self._weights is None else {"best_weights": dict(self._weights)}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state_dict)
        self._values = list(state_dict["values"])
        self.level, self.best_level = (
            None if state_dict[name] is None else Level(*state_dict[name])
            for name in ("level", "best_level")
        )
        self._lowest, self.best_step = state_dict["lowest"], state_dict["best_step"]
        self._weights = state_dict.get("best_weights") if self.restore_best else None
