"""A history as tables of pandas and Arrow."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable

import pytest

from lightning_diag.history import History
from lightning_diag.record import Record

NAN, INF = float("nan"), float("inf")
COLUMNS = ["step", "epoch", "seconds", "metric", "place", "value"]


@pytest.fixture
def history() -> History:
    """Return records of all kinds: gaps, NaN, lists, dense losses, and a note."""
    history = History()
    history.append(Record(0, {"g": {"a": 0.5, "b": 0.25}}, {"loss": [2.0]}, {}, 0, 0.0, (1,)))
    lists = {"units": {"x": [1.0, 2.0]}}
    history.append(Record(2, {"g": {"b": INF}}, {"loss": [1.75, 1.5]}, lists, 1, 0.5, (3,)))
    history.append(Record(5, {"g": {"a": NAN, "c": 1.0}}, {}, {}, 1, 0.75, (6,)))
    history.note(3, {"val": {"": 0.125}})
    return history


def test_a_frame_has_a_row_for_each_step_and_a_column_for_each_place(history: History) -> None:
    frame = history.to_pandas("g")
    assert frame.index.name == "step"
    assert frame.index.tolist() == [0, 2, 5]
    assert frame.columns.tolist() == history.places("g") == ["a", "b", "c"]
    assert frame.loc[0].tolist()[:2] == [0.5, 0.25]
    assert frame.loc[2, "b"] == INF
    assert frame.loc[5, "c"] == 1.0
    assert frame.isna().sum().sum() == 5
    assert {str(kind) for kind in frame.dtypes} == {"float64"}


@pytest.mark.parametrize("metric", ["loss", "val"])
def test_a_frame_has_dense_metrics_and_notes_as_series_has_them(
    history: History, metric: str
) -> None:
    steps, values = history.series(metric)
    assert steps
    assert history.to_pandas(metric).index.tolist() == steps
    assert history.to_pandas(metric)[""].tolist() == values


def test_a_frame_of_lists_holds_lists(history: History) -> None:
    frame = history.to_pandas("units")
    assert frame.index.tolist() == [2]
    assert frame.loc[2, "x"] == [1.0, 2.0]


@pytest.mark.parametrize("history", [History()], ids=["empty"])
def test_what_is_unknown_is_an_empty_table(history: History) -> None:
    frame = history.to_pandas("g")
    assert frame.shape == (0, 0)
    assert frame.index.name == "step"
    assert history.to_arrow().shape == (0, 6)
    assert history.to_arrow().column_names == COLUMNS


def test_the_arrow_table_has_a_row_for_each_number_that_was_observed(history: History) -> None:
    table = history.to_arrow()
    assert table.column_names == COLUMNS
    rows = [tuple(row.values()) for row in table.to_pylist()]
    expected = [
        (0, 0, 0.0, "g", "a", 0.5),
        (5, 1, 0.75, "g", "a", NAN),
        (0, 0, 0.0, "g", "b", 0.25),
        (2, 1, 0.5, "g", "b", INF),
        (5, 1, 0.75, "g", "c", 1.0),
        (0, 0, 0.0, "loss", "", 2.0),
        (1, None, None, "loss", "", 1.75),
        (2, 1, 0.5, "loss", "", 1.5),
        (3, None, None, "val", "", 0.125),
    ]
    assert [row[:5] for row in rows] == [row[:5] for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert row[5] == wanted[5] or (math.isnan(row[5]) and math.isnan(wanted[5]))


def test_the_arrow_table_goes_to_parquet_and_back(history: History) -> None:
    from pyarrow import parquet

    table, file = history.to_arrow(), io.BytesIO()
    parquet.write_table(table, file)
    assert parquet.read_table(file).slice(2).to_pylist() == table.slice(2).to_pylist()


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("pandas", "pandas", lambda history: history.to_pandas("g")),
        ("pyarrow", "arrow", lambda history: history.to_arrow()),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str, use: Callable[[History], object]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}, .* 'lightning-diag\[{extra}\]'`\.$"):
        use(History())


def test_reading_a_history_imports_neither(run_python: Callable[..., str]) -> None:
    code = (
        "import sys, lightning_diag.history; print({'pandas', 'pyarrow', 'numpy'} & {*sys.modules})"
    )
    assert run_python(code) == "set()\n"
