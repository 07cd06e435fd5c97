"""Any logger gets what it can show; one that fails costs nobody else anything."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger

from lightning_diag import DiagWarning, History
from lightning_diag.loggers.bounded import within
from lightning_diag.loggers.examples import (
    contact_sheet,
    filter_images,
    opened,
    worst_examples,
)
from lightning_diag.loggers.maps import MOST_COLUMNS, MOST_ROWS, layer_maps, picture
from lightning_diag.loggers.names import MOST_SCALARS, SECTIONS, chosen, in_section
from lightning_diag.loggers.write import Screens
from lightning_diag.record import Record
from loggers.fits import STEPS, fit


class Keeps:
    """Stands in for any logger: takes scalars, and may fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.rows: list[dict[str, float]] = []
        self.fails = fails

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if self.fails:
            raise OSError("disk full")
        self.rows.append(dict(metrics))


class WandbLogger(Keeps):
    """Has the name of W&B's, as that of either Lightning."""

    experiment: Any = None


def test_a_logger_that_fails_goes_dark_alone_with_one_warning() -> None:
    sick, well = Keeps(fails=True), Keeps()
    screens = Screens([sick, well])
    with pytest.warns(DiagWarning, match="Keeps gets nothing more .* OSError: disk full"):
        screens.show_record({"a": 1.0}, {}, 0)
    screens.show_record({"a": 1.0}, {}, 1)  # a second warning would be an error
    assert len(well.rows) == 2


def test_without_w_and_b_installed_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    well = Keeps()
    screens = Screens([WandbLogger(), well])
    with pytest.warns(DiagWarning, match="WandbLogger gets nothing more"):
        screens.show_record({"a": 1.0}, {}, 0)
    screens.show_record({"a": 1.0}, {}, 1)
    assert len(well.rows) == 2


def test_a_failing_logger_leaves_training_and_the_history_alone(tmp_path: Path) -> None:
    class Full(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if any(name.startswith("diag/") for name in metrics):
                raise OSError("disk full")

    with pytest.warns(DiagWarning, match="Full gets nothing more"):
        fit(logger=Full(tmp_path))
    (file,) = tmp_path.rglob("history.jsonl")
    assert len(History.open(file)) == STEPS


def test_a_histogram_of_nan_is_left_out_and_the_scalars_are_not() -> None:
    """P13: W&B would raise."""
    seen: list[Mapping[str, Any]] = []
    screens = Screens([Keeps()])
    screens._screens[0].show_record = lambda scalars, histograms, step: seen.append(  # type: ignore[method-assign]
        {**scalars, **histograms}
    )
    nan = float("nan")
    for histogram in ([nan, nan, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, nan], [0.0, 1.0]):
        screens.show_record({"a": 1.0}, {"h": histogram}, 0)
    screens.show_record({"a": 1.0}, {"h": [0.0, 1.0, 2.0]}, 0)
    assert [sorted(shown) for shown in seen] == [["a"]] * 4 + [["a", "h"]]


def test_there_are_never_more_than_twenty_scalars_and_the_spare_ones_go_first() -> None:
    """P36."""
    names = [f"loss/{i}" for i in range(19)]
    assert chosen([*names, "update/skipped", "gradient/total_norm"]) == [
        *names,
        "gradient/total_norm",
    ]
    assert len(chosen([f"loss/{i}" for i in range(40)])) == MOST_SCALARS
    assert chosen(["update/skipped"]) == ["update/skipped"]


def test_every_name_has_one_slash_and_a_section() -> None:
    for metric in ("gradient/total_norm/optimizer0", "loss/train", "mine", "my/own/number"):
        section, _, rest = in_section(metric).partition("/")
        assert section in SECTIONS
        assert rest
        assert "/" not in rest


def test_a_map_has_rows_in_the_models_order_and_absent_is_none() -> None:
    found = History()
    found.append(Record(step=0, values={"dead_relu/fraction": {"b": 0.5, "a": 0.25}}))
    found.append(Record(step=5, values={"dead_relu/fraction": {"a": float("nan")}}))
    (grid,) = layer_maps(found)
    assert grid.places == ("b", "a")
    assert grid.steps == (0, 5)
    assert grid.values[0] == (0.5, None)
    assert [step for place, step, _ in grid.cells() if place == "b"] == [0]


def test_a_large_model_and_a_long_run_are_thinned_and_keep_their_extremes() -> None:
    found = History()
    for step in range(300):
        norms = {f"layer{i}": 1e6 if step == 137 else 1.0 for i in range(400)}
        found.append(Record(step=step, values={"gradient/layer_norm": norms}))
    (grid,) = layer_maps(found)
    assert (len(grid.places), len(grid.steps)) == (MOST_ROWS, MOST_COLUMNS)
    assert all(max(v for v in row if v is not None) == 1e6 for row in grid.values)
    assert len(list(grid.cells())) <= 10_000


def test_a_picture_shows_what_is_large_bright_what_is_broken_red_and_what_is_absent_grey() -> None:
    found = History()
    values = {"low": 1e-4, "high": 1.0, "broken": float("inf")}
    found.append(Record(step=0, values={"update/ratio": values}))
    found.append(Record(step=1, values={"update/ratio": {"low": 1e-4}}))
    (grid,) = layer_maps(found)
    image = picture(grid).convert("RGB")
    middle = [8 + i * 16 for i in range(3)]
    right, left = image.width - 10, image.width - 500
    low, high, broken = (image.getpixel((left, y)) for y in middle)
    assert sum(low) < sum(high)
    assert broken == (214, 39, 40)
    assert image.getpixel((right, middle[1])) == (200, 200, 200)


def test_names_that_no_font_has_are_drawn_all_the_same() -> None:
    found = History()
    found.append(Record(step=0, values={"update/ratio": {"слой." + "x" * 90: 1.0}}))
    (grid,) = layer_maps(found)
    assert picture(grid).width < 1000


def test_examples_and_filters_become_rows_and_pictures() -> None:
    found = History()
    worst = {"loss": 9.5, "target": 3, "prediction": 8, "probability": 0.99, "step": 4}
    image = {"shape": [1, 2, 1], "pixels": "AP8="}
    content = {"stage": "train", "samples": 8, "examples": [{**worst, **image}, {"loss": 1.0}]}
    found.show("example/worst", "cross_entropy#0", 4, content)
    shown = worst_examples(found)
    assert shown is not None
    assert shown.rows[0][: len(worst)] == [9.5, 3, 8, 0.99, 4]
    assert shown.rows[1][0] == 1.0
    assert shown.rows[1][1] is None
    assert shown.images[1] is None
    assert shown.images[0] is not None
    assert shown.rows[0][shown.columns.index("stage")] == "train"
    content = {"stage": "validation", "samples": 8, "examples": [{"loss": 2.0, "loader": 1}]}
    found.show("example/worst_validation", "cross_entropy#0", 5, content)
    both = worst_examples(found)
    assert both is not None
    columns = [both.columns.index(name) for name in ("stage", "loader", "loss")]
    assert [[row[i] for i in columns] for row in both.rows] == [
        ["train", None, 9.5],
        ["train", None, 1.0],
        ["validation", 1, 2.0],
    ]
    assert opened(shown.images[0]).getpixel((0, 0)) == (0, 0, 0)
    found.show("filter/pixels", "net.0.weight", 0, {"shape": [1, 1, 2, 1], "pixels": "AP8="})
    assert list(filter_images(found)) == ["net.0.weight"]


def test_several_lists_are_named_in_the_table_with_the_reason() -> None:
    """W13: a suspicious label by its index, label, answer and why."""
    found = History()
    one = {"loss": 9.5, "target": 3, "prediction": 8, "probability": 0.99, "index": 1111}
    course = {"margin": -0.9, "looks": 10, "forgotten": 0, "learnt": False, "name": "cat/1.png"}
    image = {"shape": [1, 2, 1], "pixels": "AP8="}
    content = {"stage": "train", "samples": 8, "found": 3, "examples": [{**one, **course, **image}]}
    found.show("example/suspicious", "cross_entropy#0", 4, content)
    found.show("example/worst", "cross_entropy#0", 4, {"examples": [one]})
    shown = worst_examples(found)
    assert shown is not None
    rows = [dict(zip(shown.columns, row, strict=True)) for row in shown.rows]
    assert [row["list"] for row in rows] == ["suspicious label", "highest loss"]
    assert (rows[0]["index"], rows[0]["target"], rows[0]["prediction"]) == (1111, 3, 8)
    assert rows[0]["why"] == "Another class was likelier by 90% over 10 looks; never right."
    assert (rows[0]["name"], rows[1]["why"], rows[1]["margin"]) == ("cat/1.png", None, None)
    sheet = contact_sheet([*shown.images, *shown.images])
    assert (sheet.width, sheet.height) == (2 * 98, 98)
    assert sheet.getpixel((0, 0)) == (0, 0, 0)
    assert contact_sheet([None]) is None


def test_without_examples_there_is_no_table_of_them() -> None:
    assert worst_examples(History()) is None
    assert filter_images(History()) == {}


def test_what_takes_too_long_is_left_and_said() -> None:
    import threading

    never = threading.Event()
    with pytest.warns(DiagWarning, match="the page may be missing"):
        assert not within(0.05, never.wait, what="the page")
    never.set()


def test_what_fails_in_time_fails_where_it_was_asked() -> None:
    def refuse() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        within(5, refuse, what="the page")


def test_csv_files_have_the_layers_the_findings_and_the_examples(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, version=0)
    fit(logger=logger)
    tables = {}
    for name in ("layers", "findings", "worst_examples"):
        with (Path(logger.log_dir) / f"diag_{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert "net.first.weight" in [row["place"] for row in tables["layers"]]
    assert "learning-rate-too-high" in [row["code"] for row in tables["findings"]]
    assert float(tables["worst_examples"][0]["loss"]) > 0
