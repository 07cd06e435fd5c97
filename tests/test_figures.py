"""Figures for papers and loggers, of made-up runs that hold all there can be."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure
from report_runs import HOSTILE, diverged, healthy, huge, killed

from lightning_diag.figures import heat_figure, loss_figure, profile_figure, save_figures
from lightning_diag.figures.look import BLUE, ORANGE, RED
from lightning_diag.history import History
from lightning_diag.record import Record

NAN, INF = float("nan"), float("inf")
FUNCTIONS: list[Callable[[History], Figure]] = [
    loss_figure,
    lambda history: heat_figure(history, "gradient/norm"),
    lambda history: profile_figure(history, "gradient/norm"),
]


def history_of(metric: str, columns: dict[int, dict[str, float]]) -> History:
    """Return a history of one metric: step to place to number."""
    history = History()
    for step, places in columns.items():
        history.append(Record(step, {metric: places}, {"loss/train": [1.0]}))
    return history


def axes_of(figure: Figure) -> Axes:
    return figure.axes[0]


def labels(figure: Figure) -> list[str]:
    """Return the entries of the legend."""
    legend = axes_of(figure).get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def meshes(figure: Figure) -> list[QuadMesh]:
    """Return what is painted: first cells that hold no number, then those that do."""
    return [c for c in axes_of(figure).collections if isinstance(c, QuadMesh)]


def cells(figure: Figure) -> Any:
    """Return the numbers that are painted, masked elsewhere."""
    return meshes(figure)[-1].get_array()


@pytest.fixture
def gaps() -> History:
    """Return a map with a number, a zero, a NaN, an infinity and a gap in it."""
    columns = {
        0: {"a": 1.0, "b": 0.0, "c": 3.0},
        2: {"a": NAN, "c": INF},
        5: {"a": 10.0, "b": 2.0, "c": 30.0},
    }
    return history_of("gradient/norm", columns)


def test_a_map_shows_each_number_where_it_was_observed(gaps: History) -> None:
    painted = cells(heat_figure(gaps, "gradient/norm"))
    expected = [[1.0, NAN, 10.0], [NAN, NAN, 2.0], [3.0, NAN, 30.0]]
    np.testing.assert_array_equal(painted.filled(NAN), expected)
    mesh: Any = meshes(heat_figure(gaps, "gradient/norm"))[-1]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0.0, 2.0, 5.0, 6.0]


def test_a_map_tells_gaps_zeros_and_lost_numbers_apart(gaps: History) -> None:
    figure = heat_figure(gaps, "gradient/norm")
    assert labels(figure) == ["not observed", "exactly 0", "NaN or inf"]
    under: Any = meshes(figure)[0].get_array()
    np.testing.assert_array_equal(under.filled(-1), [[-1, 2, -1], [1, 0, -1], [-1, 2, -1]])
    hatched = [c for c in axes_of(figure).collections if isinstance(c, PolyCollection)]
    spans = [path.get_extents().bounds for c in hatched for path in c.get_paths()]
    assert spans == [(2.0, -0.5, 3.0, 1.0), (2.0, 1.5, 3.0, 1.0)]


def test_the_input_is_on_top_and_rows_are_named(gaps: History) -> None:
    axes = axes_of(heat_figure(gaps, "gradient/norm"))
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize("draw", FUNCTIONS[:2])
def test_ticks_are_whole_steps(draw: Callable[[History], Figure]) -> None:
    history = history_of("gradient/norm", {step: {"a": 1.0} for step in range(4)})
    ticks = axes_of(draw(history)).get_xticks()
    assert [float(tick) for tick in ticks][:4] == [0.0, 1.0, 2.0, 3.0]


def test_a_column_of_several_steps_is_the_largest_number_of_each() -> None:
    columns = {step: {"a": 2.0 if step == 500 else 1.0, "b": 1.0} for step in range(1000)}
    columns[700]["b"] = NAN
    painted = cells(heat_figure(history_of("gradient/norm", columns), "gradient/norm"))
    assert painted.shape == (2, 400)
    assert painted[0].tolist() == [2.0 if i == 200 else 1.0 for i in range(400)]
    assert painted[1].mask.tolist() == [i == 280 for i in range(400)]


@pytest.mark.parametrize(
    ("metric", "label", "limits"),
    [
        ("dead_relu/fraction", "share of units", (0.0, 1.0)),
        ("update/ratio", "ratio of norms", (math.sqrt(9e-7) / 1e3, math.sqrt(9e-7) * 1e3)),
        ("data/wait_fraction", "share", (0.0, 1.0)),
        ("gradient/norm", "L2 norm", (0.1, 10.0)),
        ("anything/else", "value", (1.0, 1.1)),
    ],
)
def test_colours_have_a_unit_and_limits_that_suit_the_metric(
    metric: str, label: str, limits: tuple[float, float]
) -> None:
    values = (1.0, 1.1) if metric == "anything/else" else (1.0, 1.0)
    columns = {0: {"a": values[0]}, 1: {"a": values[1]}}
    figure = heat_figure(history_of(metric, columns), metric)
    assert figure.axes[1].get_ylabel() == label
    assert meshes(figure)[-1].get_clim() == pytest.approx(limits)


def test_a_profile_holds_the_newest_numbers_up_to_its_step(gaps: History) -> None:
    def points(step: int | None) -> list[tuple[float, float]]:
        line = axes_of(profile_figure(gaps, "gradient/norm", step)).lines[0]
        return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata()).tolist()]

    assert points(None) == points(5) == points(99) == [(10.0, 0.0), (2.0, 1.0), (30.0, 2.0)]
    assert points(0) == points(1) == [(1.0, 0.0), (3.0, 2.0)]
    figure = profile_figure(gaps, "gradient/norm", 2)
    assert labels(figure) == ["exactly 0", "NaN or inf"]
    assert axes_of(figure).get_title(loc="left") == "Gradient norm by parameter at step 2"
    assert axes_of(figure).get_xlabel() == "L2 norm"


def test_a_profile_of_update_ratios_shows_what_is_usual() -> None:
    history, _ = healthy()
    figure = profile_figure(history, "update/ratio")
    assert labels(figure) == ["usual"]
    low, high = axes_of(figure).get_xlim()
    assert low < 3e-4
    assert high > 3e-3


def test_a_loss_has_its_smoothed_curve_its_findings_and_what_was_lost() -> None:
    history, findings = diverged()
    for finding in findings:
        history.add_finding(finding)
    figure = loss_figure(history)
    axes = axes_of(figure)
    assert labels(figure) == ["training, each step", "training, mean of 9 steps", "NaN or inf"]
    assert [text.get_text() for text in axes.texts] == [" non-finite"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer step", "loss")
    assert axes.get_yscale() == "log"
    raw, smooth = (np.asarray(line.get_ydata(), float) for line in axes.lines[:2])
    assert smooth[100] == pytest.approx(raw[96:105].mean())
    assert np.isnan(raw[280:]).all()
    (strip,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    assert strip.get_paths()[0].get_extents().bounds[::2] == (279.5, 121.0)


def test_a_validation_loss_is_drawn_where_it_was_measured() -> None:
    history, _ = healthy()
    history.update_meta({"validation": {"loss": "val_loss", "metrics": {"val_loss": "min"}}})
    for step, value in ((99, 1.5), (199, NAN), (299, 1.25)):
        history.note(step, {"validation/val_loss": {"": value}})
    figure = loss_figure(history)
    assert labels(figure)[-1] == "validation"
    line = axes_of(figure).lines[2]
    assert np.asarray(line.get_xydata()).tolist() == [[99, 1.5], [299, 1.25]]


@pytest.mark.parametrize("draw", FUNCTIONS)
def test_a_history_without_numbers_is_one_sentence(draw: Callable[[History], Figure]) -> None:
    with pytest.raises(ValueError, match=r"^There is (no loss|nothing) to draw: the history has"):
        draw(History())


@pytest.mark.parametrize("draw", FUNCTIONS)
def test_without_matplotlib_the_command_that_installs_it_is_named(
    draw: Callable[[History], Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"run `pip install 'lightning-diag\[plots\]'`\.$"):
        draw(healthy()[0])


@pytest.mark.parametrize("name", [HOSTILE, "$x^$", "a_{b", "\\frac{", "層.0\n"])
def test_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    """Neither markup nor formulas nor line ends in a name do anything."""
    history = history_of("gradient/norm", {0: {name: 1.0, "other": 2.0}})
    for figure in (heat_figure(history, "gradient/norm"), profile_figure(history, "gradient/norm")):
        (label, _) = (tick.get_text() for tick in axes_of(figure).get_yticklabels())
        assert label == "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        if name.isascii():
            figure.savefig(tmp_path / "figure.svg")
            ET.parse(tmp_path / "figure.svg")


def test_a_metric_named_as_a_formula_is_drawn(tmp_path: Path) -> None:
    history = history_of("metric/$x^$", {0: {"": 1.0}})
    figures = (heat_figure(history, "metric/$x^$"), profile_figure(history, "metric/$x^$"))
    for figure in figures:
        figure.savefig(tmp_path / "figure.png")
        assert axes_of(figure).get_title(loc="left").startswith("metric/$x^$")


def test_three_hundred_layers_fit_on_a_page() -> None:
    history, _ = huge()
    for figure in (heat_figure(history, "update/ratio"), profile_figure(history, "update/ratio")):
        assert figure.get_size_inches()[1] <= 11
        assert 20 <= len(axes_of(figure).get_yticklabels()) <= 60
        assert axes_of(figure).get_ylabel() == "place, below model.encoder.blocks."


@pytest.mark.parametrize(("run", "kind"), [(killed, "png"), (diverged, "svg")])
def test_files_of_all_figures_are_written_alike_each_time(
    run: Callable[[], tuple[History, Any]], kind: Any, tmp_path: Path
) -> None:
    history, findings = run()
    for finding in findings:
        history.add_finding(finding)
    first, again = (save_figures(history, tmp_path / name, kind=kind) for name in "ab")
    assert len(first) == len(list((tmp_path / "a").iterdir())) == 11
    assert first[0].name == f"loss.{kind}"
    for path, other in zip(first, again, strict=True):
        assert path.read_bytes() == other.read_bytes()
        assert path.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")
        assert path.stat().st_size > 5000


def test_nothing_is_written_where_there_is_nothing(tmp_path: Path) -> None:
    assert save_figures(History(), tmp_path / "figures") == []
    with pytest.raises(ValueError, match="`kind` must be 'png' or 'svg', got 'gif'"):
        save_figures(History(), tmp_path, kind="gif")  # type: ignore[arg-type]


def test_no_window_and_no_pyplot_is_touched(run_python: Callable[..., str]) -> None:
    code = """
import sys
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.figures import save_figures
assert "matplotlib" not in sys.modules
history = History()
history.append(Record(0, {"gradient/norm": {"a": 1.0}}, {"loss/train": [1.0]}))
print(len(save_figures(history, "figures")), "matplotlib.pyplot" in sys.modules)
"""
    assert run_python(code) == "3 False\n"


def test_loggers_take_the_figures(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_figure("loss", loss_figure(healthy()[0]), 0)
    (events,) = tmp_path.iterdir()
    assert b"PNG" in events.read_bytes()


def seen_without(kind: str, colour: str) -> Any:
    """Return linear RGB as seen without one kind of cones (Machado et al., 2009, severity 1)."""
    matrices = {
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    }
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.array(matrices[kind]) @ np.where(
        srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4
    )


@pytest.mark.parametrize("kind", ["protanopia", "deuteranopia", "tritanopia"])
@pytest.mark.parametrize("other", [ORANGE, RED])
def test_lines_are_told_apart_by_every_kind_of_colour_vision(kind: str, other: str) -> None:
    assert np.abs(seen_without(kind, BLUE) - seen_without(kind, other)).max() > 0.2


def test_red_and_green_alike_would_be_noticed() -> None:
    red, green = (seen_without("deuteranopia", colour) for colour in ("#c00000", "#5f7000"))
    assert np.abs(red - green).max() < 0.1


def test_wandb_takes_the_figures() -> None:
    import wandb

    image = wandb.Image(loss_figure(healthy()[0]))
    assert image.format == "png"
