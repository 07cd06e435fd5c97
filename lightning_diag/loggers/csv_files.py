"""What a folder of CSV files can show: scalars, and tables beside them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from lightning_diag.history import History
from lightning_diag.loggers.examples import worst_examples
from lightning_diag.loggers.screen import Screen
from lightning_diag.loggers.table import Row, finding_table, place_table
from lightning_diag.report.verdict import Verdict


class CSVScreen(Screen):
    """Writes tables beside Lightning's `metrics.csv`; see `Screen`."""

    def show_layers(self, history: History, step: int, *, last: bool) -> None:
        """See `Screen.show_layers`."""
        self._write("diag_layers.csv", *place_table(history))
        if found := worst_examples(history):
            self._write("diag_worst_examples.csv", found.columns, found.rows)

    def show_end(self, verdict: Verdict, page: Path | None, step: int) -> None:
        """See `Screen.show_end`: the page lies in a folder beside it already."""
        self._write("diag_findings.csv", *finding_table(verdict.numbered()))

    def _write(self, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        folder = Path(self.logger.log_dir)
        if folder.is_dir():  # else nothing was logged
            with (folder / name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([columns, *rows])
