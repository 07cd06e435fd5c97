"""What W&B can show: sections of scalars, histograms, tables, pictures, alerts, the page."""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from lightning_diag.finding import Finding, Severity
from lightning_diag.history import History
from lightning_diag.loggers.bounded import within
from lightning_diag.loggers.examples import Examples, filter_images, opened, worst_examples
from lightning_diag.loggers.maps import MOST_COLUMNS, LayerMap, layer_maps, picture
from lightning_diag.loggers.names import SECTIONS, in_section
from lightning_diag.loggers.screen import Histogram, Screen, bin_edges, section_names
from lightning_diag.loggers.table import Row, finding_table, place_table
from lightning_diag.report.verdict import Verdict

STEP = "trainer/global_step"
"""The x axis that Lightning's own metrics have in W&B."""

PATIENCE = 10.0
"""Our choice: seconds that training waits, once a fit, for a server that does not answer."""

MAP_TABLE = "Overview/layers_by_step"
"""The numbers behind all heat maps, in one table."""

MOST_CELLS = 5000
"""Our choice: rows of that table. W&B draws 10,000, and takes some 50 us to take in each."""

_LEVELS: dict[Severity, str] = {"bad": "ERROR", "suspect": "WARN", "note": "INFO"}
_TAG = "diag:"
_WORST_IS_LARGEST = ("gradient/nonfinite_count", "activation/nonfinite_count")


class WandbScreen(Screen):
    """Shows a run in W&B; see `Screen`."""

    declares = False

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self._wandb: Any = None
        self._alerted: set[str] = set()
        self._answers = True

    def _run(self) -> Any:
        """Return the run, None if W&B is switched off; the first time, set up its axes."""
        run = self.logger.experiment
        if self._wandb is None:
            self._wandb = importlib.import_module("wandb")
            if not getattr(run, "disabled", False):
                self._define(run)
                _finish_with_this_process(run)
        return None if getattr(run, "disabled", False) else run

    def _define(self, run: Any) -> None:
        """Put the trainer's step on the x axis of every panel, also of runs of the user's own."""
        own = getattr(self.logger, "_prefix", "")
        prefix = f"{own}{getattr(self.logger, 'LOGGER_JOIN_CHAR', '-')}" if own else ""
        run.define_metric(STEP)
        for section in SECTIONS:
            run.define_metric(f"{prefix}{section}/*", step_metric=STEP, step_sync=True)
        for metric in _WORST_IS_LARGEST:
            name = f"{prefix}{in_section(metric)}"
            run.define_metric(name, step_metric=STEP, step_sync=True, summary="max")

    def show_record(
        self, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], step: int
    ) -> None:
        """See `Screen.show_record`; all of it is one row."""
        if self._run() is None or not (scalars or histograms):
            return
        row = section_names({**scalars, **{m: self._histogram(h) for m, h in histograms.items()}})
        self.logger.log_metrics(row, step=step)

    def _histogram(self, histogram: Histogram) -> Any:
        import numpy as np  # noqa: PLC0415  # wandb requires it

        edges, counts = bin_edges(histogram)
        return self._wandb.Histogram(np_histogram=(np.asarray(counts), np.asarray(edges)))

    def show_layers(self, history: History, step: int, *, last: bool) -> None:
        """See `Screen.show_layers`."""
        if self._run() is None:
            return
        maps = layer_maps(history)
        if images := self._images(maps, filter_images(history)):
            self.logger.log_metrics(images, step=step)
        tables = {"Overview/layers": self._table(*place_table(history))}
        if maps and last:
            tables[MAP_TABLE] = self._table(*_cell_table(history))
        if found := worst_examples(history):
            tables["Data/worst_examples"] = self._example_table(found)
        self._ask(lambda: self.logger.log_metrics(tables, step=step))

    def _ask(self, action: Callable[[], object]) -> None:
        """Log what W&B asks its server about first: tables and artifacts.

        It waits tens of seconds for a server that is gone, each time: here it gets one chance.
        """
        if self._answers:
            what = "tables of lightning_diag, and its report as an artifact,"
            self._answers = within(PATIENCE, action, what=what)

    def _images(self, maps: Sequence[LayerMap], filters: Mapping[str, bytes]) -> dict[str, Any]:
        image = self._wandb.Image
        try:
            shown = section_names(
                {grid.kind.name: image(picture(grid), caption=grid.caption()) for grid in maps}
            )
            if filters:
                shown["Overview/first_layer_filters"] = [
                    image(opened(png), caption=place) for place, png in filters.items()
                ]
        except ImportError:  # no pillow: the numbers are in the table, the filters in the report
            return {}
        return shown

    def _example_table(self, found: Examples) -> Any:
        table = self._table(found.columns, found.rows)
        if any(found.images):
            with suppress(ImportError):
                images = [
                    None if png is None else self._wandb.Image(opened(png)) for png in found.images
                ]
                table.add_column("picture", images)
        return table

    def _table(self, columns: Sequence[str], rows: Sequence[Row]) -> Any:
        """Make a table; infinity and NaN, which JSON lacks, become text."""
        shown = [[str(cell) if _odd(cell) else cell for cell in row] for row in rows]
        return self._wandb.Table(columns=list(columns), data=shown, allow_mixed_types=True)

    def show_findings(self, verdict: Verdict, news: Sequence[Finding], step: int) -> None:
        """See `Screen.show_findings`: in the run's summary, as tags and alerts."""
        run = self._run()
        if run is None:
            return
        run.summary["diag/verdict"] = verdict.sentence
        _tag(run, verdict)
        for finding in news:
            if finding.code not in self._alerted:
                self._alerted.add(finding.code)
                title = f"{finding.code} since step {finding.steps[0]:,}"
                text = f"{finding.message}\n\n{finding.remedy}"
                run.alert(title[:63], text, level=_LEVELS[finding.severity])

    def show_end(self, verdict: Verdict, path: Path | None, step: int) -> None:
        """See `Screen.show_end`: the page as a panel, and as an artifact of the run."""
        run = self._run()
        if run is None:
            return
        if findings := verdict.numbered():
            table = self._table(*finding_table(findings))
            self._ask(lambda: self.logger.log_metrics({"Findings/findings": table}, step=step))
        if path is not None:
            page = self._wandb.Html(str(path), inject=False)
            self.logger.log_metrics({"Overview/report": page}, step=step)
            artifact = self._wandb.Artifact(f"diag-report-{run.id}", type="diag-report")
            artifact.add_file(str(path), name="report.html")
            self._ask(lambda: run.log_artifact(artifact))


def _cell_table(history: History) -> tuple[list[str], list[Row]]:
    """Return the cells of all maps as rows of one table, few enough for W&B to show."""
    rows = sum(len(grid.places) for grid in layer_maps(history))
    maps = layer_maps(history, columns=max(8, min(MOST_COLUMNS, MOST_CELLS // rows)))
    cells: list[Row] = [
        [grid.kind.metric, place, step, value]
        for grid in maps
        for place, step, value in grid.cells()
    ]
    return ["metric", "place", "step", "value"], cells


def _tag(run: Any, verdict: Verdict) -> None:
    """Tag the run with what ails it, and leave the tags that the user gave it."""
    causes = [f"{_TAG} {cause.finding.code}" for cause in verdict.causes if cause.severity]
    others = [tag for tag in run.tags or () if not tag.startswith(_TAG)]
    tags = (*others, *(causes or [f"{_TAG} {verdict.tone}"]))
    if tuple(run.tags or ()) != tags:
        run.tags = tags


def _finish_with_this_process(run: Any) -> None:
    """See to it that a run which began in a forked process is written before that ends.

    Forked processes end without the exit handler that W&B relies on, and with them all that such a
    run has logged: `ddp_fork` and `ddp_notebook` train in them. A run that the main process began
    goes on there.
    """
    began_here = getattr(run, "_init_pid", None) == os.getpid()
    if began_here and multiprocessing.parent_process() is not None:
        Finalize(None, run.finish, exitpriority=0)


def _odd(cell: str | float | None) -> bool:
    return isinstance(cell, float) and not math.isfinite(cell)
