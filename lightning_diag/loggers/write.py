"""Sends a run to the trainer's loggers, each as far as it can show it.

Loggers are told apart by the names of their classes, since each Lightning namespace has its own,
and importing one to ask would import the tool behind it. Only the first rank may use this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_diag._compat import is_logger
from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.loggers.comet import CometScreen
from lightning_diag.loggers.csv_files import CSVScreen
from lightning_diag.loggers.mlflow import MLFlowScreen
from lightning_diag.loggers.names import chosen
from lightning_diag.loggers.screen import Histogram, Screen
from lightning_diag.loggers.tensorboard import TensorBoardScreen
from lightning_diag.loggers.wandb import WandbScreen
from lightning_diag.report.verdict import judge
from lightning_diag.warning import warn

_KINDS: dict[str, type[Screen]] = {
    "WandbLogger": WandbScreen,
    "TensorBoardLogger": TensorBoardScreen,
    "CSVLogger": CSVScreen,
    "MLFlowLogger": MLFlowScreen,
    "CometLogger": CometScreen,
}


class Screens:
    """Shows a run in all of the trainer's loggers; never raises.

    A logger that fails gets nothing more during this fit, and one warning says so; the others, and
    training, go on.

    Args:
        loggers: The trainer's.
    """

    def __init__(self, loggers: Sequence[Any]) -> None:
        self._screens = [_screen(logger) for logger in loggers]
        self._scalars: frozenset[str] | None = None

    def __bool__(self) -> bool:
        """Whether any logger is left."""
        return bool(self._screens)

    def show_record(
        self, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], step: int
    ) -> None:
        """Show the numbers of one watched step; scalars that are NaN have not been observed."""
        declaring = self._scalars is None
        if self._scalars is None:
            self._scalars = frozenset(chosen(scalars))
        named = {metric: value for metric, value in scalars.items() if metric in self._scalars}
        seen = {metric: value for metric, value in named.items() if not math.isnan(value)}
        sound = {metric: h for metric, h in histograms.items() if _sound(h)}

        def show(screen: Screen) -> None:
            shown = named if declaring and screen.declares else seen
            screen.show_record(shown, sound, step)

        self._on_each(show)

    def show_layers(self, history: History, step: int, *, last: bool) -> None:
        """Show every layer: its newest numbers, and its course."""
        self._on_each(lambda screen: screen.show_layers(history, step, last=last))

    def show_findings(
        self, findings: Iterable[Finding], news: Sequence[Finding], history: History, step: int
    ) -> None:
        """Show the verdict so far; tell at once of the findings that are news."""
        if self._screens:
            verdict = judge(findings, history)
            self._on_each(lambda screen: screen.show_findings(verdict, news, step))

    def show_end(
        self, findings: Iterable[Finding], page: Path | None, history: History, step: int
    ) -> None:
        """Show all findings, and the page that sums the run up, if there is one."""
        if self._screens:
            verdict = judge(findings, history)
            self._on_each(lambda screen: screen.show_end(verdict, page, step))

    def _on_each(self, show: Callable[[Screen], None]) -> None:
        for screen in list(self._screens):
            try:
                show(screen)
            except Exception as error:  # noqa: BLE001  # whatever a logger does, training goes on
                self._screens.remove(screen)
                warn(
                    f"{type(screen.logger).__name__} gets nothing more from lightning_diag in this "
                    f"fit, and training goes on: it raised {type(error).__name__}: {error}"
                )


def _screen(logger: Any) -> Screen:
    for name, kind in _KINDS.items():
        if is_logger(logger, name):
            return kind(logger)
    return Screen(logger)


def _sound(histogram: Histogram) -> bool:
    """Whether a histogram has a range and counts: where all was NaN it has none (P13)."""
    return len(histogram) > 2 and all(map(math.isfinite, histogram)) and histogram[0] < histogram[1]
