"""`lightning-diag compare` says what differs between runs, and only that."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_runs import copy, store
from report_runs import RUNS, make_finding, make_run
from rich.console import Console

from lightning_diag.cli import main
from lightning_diag.cli.runs import names
from lightning_diag.history import History, Series
from lightning_diag.record import Record
from lightning_diag.report.compare import Differences, Run, compare, show
from lightning_diag.report.compare.chart import chart
from lightning_diag.report.compare.page import headline, render
from lightning_diag.report.words import plain


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "style"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


def _digest(text: str) -> str:
    """Return how a policy names what may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def of(values: dict[str, dict[str, list[float]]], name: str = "run") -> Run:
    """Return a run of a few records; metric to place to numbers."""
    history = History()
    n = max(len(v) for places in values.values() for v in places.values())
    for i in range(n):
        history.append(
            Record(i, {m: {p: v[i] for p, v in places.items()} for m, places in values.items()})
        )
    return Run(name, history, ())


def made_up(*runs: str) -> Differences:
    return compare([Run(name, history, tuple(f)) for name in runs for history, f in [RUNS[name]()]])


def test_layers_are_ranked_by_the_ratio_of_their_medians() -> None:
    a = of({"gradient/layer_norm": {"x": [1.0, 1.0, 9.0], "y": [2.0, 2.0, 2.0], "z": [1, 1, 1]}})
    b = of({"gradient/layer_norm": {"x": [3.0, 4.0, 5.0], "y": [1.0, 0.0, 0.2], "z": [1, 1, 1]}})
    (table,) = compare([a, b]).layers
    assert [(row.place, row.values, row.difference) for row in table.rows] == [
        ("y", (2.0, 0.2), 10.0),
        ("x", (1.0, 4.0), 4.0),
    ]
    assert table.places == 3


def test_shares_are_ranked_by_their_difference_since_none_is_common() -> None:
    a = of({"dead_relu/fraction": {"x": [0.0], "y": [0.30]}})
    b = of({"dead_relu/fraction": {"x": [0.1], "y": [0.35]}})
    (table,) = compare([a, b]).layers
    assert [row.place for row in table.rows] == ["x", "y"]
    assert table.write_difference(table.rows[0].difference) == "10 points"


def test_a_layer_that_gets_nothing_in_one_run_differs_without_bound() -> None:
    a = of({"update/ratio": {"x": [0.0], "y": [1.0]}})
    b = of({"update/ratio": {"x": [1.0], "y": [math.nan]}})
    (table,) = compare([a, b]).layers
    assert [(row.place, row.difference) for row in table.rows] == [("x", math.inf)]
    assert table.write_difference(math.inf) == "inf×"


def test_runs_that_are_alike_differ_in_nothing() -> None:
    history, findings = RUNS["killed"]()
    found = compare([Run(name, history, tuple(findings)) for name in ("a", "b")])
    assert found.layers == ()
    assert found.settings == ()
    assert not [row for row in (*found.findings, *found.numbers) if row.differs]


def test_findings_are_told_for_each_run_causes_first() -> None:
    found = made_up("healthy", "killed")
    assert [(row.name, row.cells) for row in found.findings] == [
        ("learning-rate-too-high", ("", "bad, since step 0")),
        ("dead-relu", ("", "bad, since step 60")),
        ("missing-gradient", ("", "note, since step 0")),
    ]


def test_settings_are_told_where_they_differ() -> None:
    one, two = make_run(), make_run()
    two.update_meta(
        {
            "optimizers": [{"class": "Adam", "groups": [{"lr": 0.05, "weight_decay": 0}]}],
            "trainer": {"precision": "16-mixed", "max_epochs": 20, "clipping": None},
        }
    )
    found = compare([Run("a", one, ()), Run("b", two, ())])
    assert {row.name: row.cells for row in found.settings} == {
        "optimizer 0, group 0: lr": ("1e-3", "0.05"),
        "trainer: precision": ("32-true", "16-mixed"),
    }


def test_a_run_without_numbers_can_be_compared() -> None:
    found = compare([Run("a", History(), ()), Run("b", make_run(), ())])
    assert "Nothing can be said" in found.verdicts[0].sentence
    assert "<polyline" in render(found)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("other", RUNS)
def test_the_terminal_gets_plain_lines_that_fit(other: str, width: int) -> None:
    out = Console(file=io.StringIO(), width=width)
    show(made_up("healthy", other, "killed"), console=out)
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert max(map(len, text.splitlines())) <= width
    assert "learning-rate-too-high" in text


def test_the_page_needs_no_network_and_runs_only_its_own_scripts() -> None:
    text = render(made_up(*RUNS))
    reader = Reader()
    reader.feed(text)
    assert all(link.startswith("#") for link in reader.links)
    assert reader.handlers == []
    assert not {"img", "iframe", "object", "link"} & set(reader.tags)
    assert "<img" not in text
    assert plain("\x1b") in text
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == reader.tags.count("script") - 1  # the other one is data
    allowed = " ".join(_digest(script) for script in scripts)
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {allowed}; "
    assert f"content=\"{policy}img-src data:; base-uri 'none'; form-action 'none'\"" in text


def test_the_page_tells_what_the_terminal_tells() -> None:
    text = render(made_up("healthy", "killed"))
    for part in ("learning-rate-too-high", "bad, since step 60", "Settings that differ"):
        assert part in text
    assert text.count("<polyline") >= 2


def test_the_headline_counts_how_runs_fare_the_worst_first() -> None:
    assert headline(made_up("healthy", "killed", "vanished")) == (
        "3 runs compared: 2 broken and 1 without a problem"
    )
    assert headline(compare([Run("a", History(), ()), Run("b", make_run(), ())])) == (
        "2 runs compared: 1 without a problem and 1 not watched"
    )


def test_the_page_tells_what_to_do_about_a_run_that_is_broken() -> None:
    assert "Divide the learning rate by 30." in render(made_up("healthy", "killed"))


def test_settings_beyond_the_first_are_folded() -> None:
    one, two = make_run(), make_run()
    two.update_meta({"trainer": {f"option_{i}": i for i in range(12)}})
    text = render(compare([Run("a", one, ()), Run("b", two, ())]))
    assert text.index("option_0") < text.index("<details>") < text.index("option_11")


def test_settings_that_only_one_run_has_are_folded_beneath_those_of_all() -> None:
    one, two = make_run(), make_run()
    groups = [{"lr": 0.1, "momentum": 0.9}]
    two.update_meta({"optimizers": [{"class": "SGD", "groups": groups}]})
    text = render(compare([Run("a", one, ()), Run("b", two, ())]))
    assert text.index("group 0: lr") < text.index("<details>") < text.index("momentum")


def test_a_line_breaks_off_where_the_loss_is_not_finite() -> None:
    drawn = chart("Loss", [Series([0, 1, 2, 3], [1.0, math.nan, 2.0, 3.0]), Series([], [])])
    assert drawn is not None
    assert [len(pieces) for pieces in drawn.lines] == [2, 0]
    assert chart("Loss", [Series([0], [math.nan])]) is None


def test_losses_of_many_magnitudes_are_on_a_logarithmic_scale() -> None:
    wide = chart("Loss", [Series([0, 1], [1e-3, 10.0])])
    narrow = chart("Loss", [Series([0, 1], [1.0, 2.0])])
    assert wide is not None
    assert narrow is not None
    assert wide.is_log
    assert not narrow.is_log


def test_names_are_the_parts_of_paths_that_differ() -> None:
    def short(*folders: str) -> list[str]:
        return names([Path(folder, "lightning_diag", "history.jsonl") for folder in folders])

    assert short("logs/a/version_0", "logs/b/version_0") == ["a", "b"]
    assert short("logs/a/version_0", "logs/b/version_1") == ["a/version_0", "b/version_1"]
    assert names([Path("a/one.jsonl"), Path("a/two.jsonl")]) == ["one.jsonl", "two.jsonl"]
    first = Path("log/lightning_diag/history.jsonl")
    second = Path("log/lightning_diag-1/history.jsonl")
    assert names([first, second]) == ["lightning_diag", "lightning_diag-1"]


def test_compare_writes_the_page_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = copy("healthy", tmp_path / "one"), copy("high-learning-rate", tmp_path / "two")
    assert main(["compare", str(one), str(two), "--out", "pages/it.html"]) == 0
    told = capsys.readouterr().out
    assert "pages/it.html" in told
    assert re.search(r"net\.3/relu#0 +0\.8% +84% +84 points", told)
    assert re.search(r"optimizer 0, group 0: lr +1e-3 +0\.05\n", told)
    assert "net.3/relu#0" in Path("pages/it.html").read_text(encoding="utf-8")
    assert main(["compare", str(one), str(two), "--out", "."]) == 0
    assert Path("compare.html").is_file()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["compare", "one", "one"], "was named twice"),
        (["compare", "one", "one/lightning_diag"], "was named twice"),
        (["compare", "one", "gone"], "There is no file or folder 'gone'."),
        (["compare", "one", "."], "The folder '.' holds 2 runs"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_sentence(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        store("healthy", Path(name))
    assert main(words) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1


def test_what_has_passed_is_told_as_passed() -> None:
    passed = make_finding("loss-spike", until=400)
    (row,) = compare([Run("a", make_run(), (passed,)), Run("b", make_run(), ())]).findings
    assert row.cells == ("bad, since step 60, passed", "")
