"""What Comet can show: scalars, histograms, tables, pictures, tags, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.loggers.examples import filter_images, opened, worst_examples
from lightning_diag.loggers.maps import layer_maps, picture
from lightning_diag.loggers.screen import Histogram, Screen, bin_edges
from lightning_diag.loggers.table import Row, finding_table, place_table
from lightning_diag.report.verdict import Verdict

_VALUES = 1000
"""Our choice: values that stand in for a histogram's counts, since Comet counts by itself."""


class CometScreen(Screen):
    """Shows a run in Comet; see `Screen`."""

    declares = False

    def show_record(
        self, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], step: int
    ) -> None:
        """See `Screen.show_record`."""
        super().show_record(scalars, histograms, step)
        for metric, histogram in histograms.items():
            self.logger.experiment.log_histogram_3d(
                _stand_ins(histogram), name=f"diag/{metric}", step=step
            )

    def show_layers(self, history: History, step: int, *, last: bool) -> None:
        """See `Screen.show_layers`."""
        self._table("diag_layers.csv", *place_table(history))
        if found := worst_examples(history):
            self._table("diag_worst_examples.csv", found.columns, found.rows)
        with suppress(ImportError):  # without pillow, pictures are in the report alone
            images = {grid.kind.name: picture(grid) for grid in layer_maps(history)}
            for place, png in filter_images(history).items():
                images[f"first_layer_filters/{place}"] = opened(png)
            for name, image in images.items():
                self.logger.experiment.log_image(image, name=f"diag/{name}", step=step)

    def show_findings(self, verdict: Verdict, news: Sequence[Finding], step: int) -> None:
        """See `Screen.show_findings`."""
        self.logger.experiment.log_other("diag/verdict", verdict.sentence)

    def show_end(self, verdict: Verdict, page: Path | None, step: int) -> None:
        """See `Screen.show_end`."""
        experiment = self.logger.experiment
        for cause in verdict.causes:
            experiment.add_tag(f"diag: {cause.finding.code}")
        if findings := verdict.numbered():
            self._table("diag_findings.csv", *finding_table(findings))
        if page is not None:
            experiment.log_asset(str(page), file_name="diag/report.html", overwrite=True)

    def _table(self, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        cells: list[list[Any]] = [["" if cell is None else cell for cell in row] for row in rows]
        self.logger.experiment.log_table(name, tabular_data=cells, headers=list(columns))


def _stand_ins(histogram: Histogram) -> list[float]:
    """Return values that fall into the bins as often as counted, in proportion.

    Example:
        >>> _stand_ins([0.0, 2.0, 1.0, 3.0])[249:251], len(_stand_ins([0.0, 2.0, 1.0, 3.0]))
        ([0.5, 1.5], 1000)
    """
    edges, counts = bin_edges(histogram)
    total = sum(counts) or 1.0
    values: list[float] = []
    for low, high, n in zip(edges, edges[1:], counts, strict=False):
        values += [(low + high) / 2] * round(_VALUES * n / total)
    return values
