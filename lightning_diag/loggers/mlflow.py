"""What MLflow can show: scalars, tags, and files of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.loggers.examples import filter_images, opened, worst_examples
from lightning_diag.loggers.maps import layer_maps, picture
from lightning_diag.loggers.screen import Screen
from lightning_diag.loggers.table import finding_table, markdown, place_table
from lightning_diag.report.verdict import Verdict


class MLFlowScreen(Screen):
    """Shows a run in MLflow; see `Screen`. Tables are Markdown, which its page renders as text."""

    declares = False

    def show_layers(self, history: History, step: int, *, last: bool) -> None:
        """See `Screen.show_layers`."""
        client, run = self.logger.experiment, self.logger.run_id
        client.log_text(run, markdown(*place_table(history)), "diag/layers.md")
        if found := worst_examples(history):
            table = markdown(found.columns, found.rows)
            client.log_text(run, table, "diag/worst_examples.md")
        with suppress(ImportError):  # without pillow, pictures are in the report alone
            images = {grid.kind.name: picture(grid) for grid in layer_maps(history)}
            for place, png in filter_images(history).items():
                images[f"first_layer_filters/{place}"] = opened(png)
            for name, image in images.items():
                client.log_image(run, image, f"diag/{name.replace('/', '_')}.png")

    def show_findings(self, verdict: Verdict, news: Sequence[Finding], step: int) -> None:
        """See `Screen.show_findings`."""
        self.logger.experiment.set_tag(self.logger.run_id, "diag.verdict", verdict.sentence)

    def show_end(self, verdict: Verdict, page: Path | None, step: int) -> None:
        """See `Screen.show_end`."""
        client, run = self.logger.experiment, self.logger.run_id
        if findings := verdict.numbered():
            client.log_text(run, markdown(*finding_table(findings)), "diag/findings.md")
        if page is not None:
            client.log_artifact(run, str(page), "diag")
