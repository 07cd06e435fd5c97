"""What TensorBoard can show: scalars, histograms, tables as text, heat maps as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.loggers.examples import (
    contact_sheet,
    filter_images,
    opened,
    worst_examples,
)
from lightning_diag.loggers.maps import layer_maps, picture
from lightning_diag.loggers.screen import Histogram, Screen, bin_edges
from lightning_diag.loggers.table import finding_table, markdown, place_table
from lightning_diag.report.verdict import Verdict


class TensorBoardScreen(Screen):
    """Shows a run in TensorBoard; see `Screen`."""

    declares = False

    def show_record(
        self, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], step: int
    ) -> None:
        """See `Screen.show_record`."""
        super().show_record(scalars, histograms, step)
        for metric, histogram in histograms.items():
            edges, counts = bin_edges(histogram)
            centres = [(a + b) / 2 for a, b in pairwise(edges)]
            self.logger.experiment.add_histogram_raw(
                f"diag/{metric}",
                min=edges[0],
                max=edges[-1],
                num=sum(counts),
                sum=sum(n * x for n, x in zip(counts, centres, strict=True)),
                sum_squares=sum(n * x * x for n, x in zip(counts, centres, strict=True)),
                bucket_limits=edges[1:],
                bucket_counts=counts,
                global_step=step,
            )

    def show_layers(self, history: History, step: int, *, last: bool) -> None:
        """See `Screen.show_layers`."""
        board = self.logger.experiment
        board.add_text("diag/layers", markdown(*place_table(history)), global_step=step)
        import numpy as np  # noqa: PLC0415  # tensorboard requires it, and pillow

        images = {grid.kind.name: picture(grid) for grid in layer_maps(history)}
        for place, png in filter_images(history).items():
            images[f"first_layer_filters/{place}"] = opened(png)
        found = worst_examples(history)
        if found and (sheet := contact_sheet(found.images)):
            images["worst_examples"] = sheet
        for name, image in images.items():
            board.add_image(f"diag/{name}", np.asarray(image), step, dataformats="HWC")
        if found:
            table = markdown(found.columns, found.rows)
            board.add_text("diag/worst_examples", table, global_step=step)

    def show_findings(self, verdict: Verdict, news: Sequence[Finding], step: int) -> None:
        """See `Screen.show_findings`."""
        board = self.logger.experiment
        board.add_text("diag/verdict", verdict.sentence, global_step=step)
        if news:
            board.add_text("diag/news", markdown(*finding_table(news)), global_step=step)

    def show_end(self, verdict: Verdict, page: Path | None, step: int) -> None:
        """See `Screen.show_end`: TensorBoard shows no pages, but says where it lies."""
        board = self.logger.experiment
        if findings := verdict.numbered():
            board.add_text("diag/findings", markdown(*finding_table(findings)), global_step=step)
        if page is not None:
            board.add_text("diag/report", f"`{page.absolute()}`", global_step=step)
