"""The report says what was found, in words and pictures that nothing in a run can break."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import HOSTILE, RUNS, make_finding, make_run
from rich.console import Console
from rich.progress import Progress

from lightning_diag.batch_size import suggest_batch_size
from lightning_diag.finding import Event, Finding
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report import coverage, say, summary, write_html
from lightning_diag.report.axis import Axis, round_step
from lightning_diag.report.heat import MOST_ROWS, HeatMap, heat_maps
from lightning_diag.report.html import page, render
from lightning_diag.report.key_numbers import key_numbers
from lightning_diag.report.loss import LossChart, loss_chart
from lightning_diag.report.scale import magnitudes
from lightning_diag.report.verdict import fold, judge
from lightning_diag.report.words import plain


def printed(run: str, *, width: int = 80) -> str:
    """Return the summary of a made-up run, as a stream without a terminal gets it."""
    history, findings = RUNS[run]()
    out = Console(file=io.StringIO(), width=width)
    summary(findings, history, console=out)
    return text_of(out)


def text_of(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def history_of(metric: str, values: dict[str, list[float | None]]) -> History:
    """Return a history with one record for each number; None is not observed."""
    history = History()
    for step in range(max(len(line) for line in values.values())):
        seen = {place: line[step] for place, line in values.items() if line[step] is not None}
        history.append(Record(step, {metric: {k: v for k, v in seen.items() if v is not None}}))
    return history


def losses(values: list[float]) -> LossChart:
    """Return the chart of these losses."""
    history = History()
    history.append(Record(len(values) - 1, {}, {"loss/train": values}))
    chart = loss_chart(history, [])
    assert chart is not None
    return chart


# --- the verdict ---


def test_the_cause_comes_first_with_its_consequences_folded_under_it() -> None:
    history, findings = RUNS["killed"]()
    verdict = judge(findings, history)
    assert verdict.sentence == (
        "Training is broken: learning-rate-too-high since step 0, which explains dead-relu; "
        "separately, missing-gradient."
    )
    first, second = verdict.causes
    assert [found.code for found in first.consequences] == ["dead-relu"]
    assert (second.finding.code, second.consequences) == ("missing-gradient", ())


def test_a_consequence_of_a_consequence_is_folded_under_the_first_cause() -> None:
    chain = [make_finding("c", caused_by="b"), make_finding("b", caused_by="a"), make_finding("a")]
    (cause,) = fold(chain)
    assert cause.finding.code == "a"
    assert {found.code for found in cause.consequences} == {"b", "c"}


def test_a_finding_whose_cause_is_not_there_stands_by_itself() -> None:
    (cause,) = fold([make_finding("b", caused_by="a")])
    assert cause.finding.code == "b"


def test_findings_that_explain_each_other_are_each_shown_once() -> None:
    circle = [make_finding("a", caused_by="b"), make_finding("b", caused_by="a")]
    (cause,) = fold(circle)
    assert [cause.finding, *cause.consequences] == circle


def test_a_run_of_which_nothing_is_known_is_not_called_healthy() -> None:
    verdict = judge([], History())
    assert verdict.tone == "unknown"
    assert "no optimizer step was watched" in verdict.sentence


def test_what_has_passed_is_good_to_know_and_comes_last() -> None:
    passed = make_finding("dead-relu", until=400)
    lasts = make_finding("not-zero-centred", severity="note")
    assert judge([passed], make_run()).sentence == (
        "Good to know: dead-relu from step 60 to 400, which has passed."
    )
    verdict = judge([passed, lasts], make_run())
    assert [cause.finding.code for cause in verdict.causes] == ["not-zero-centred", "dead-relu"]
    assert verdict.sentence == "Good to know: not-zero-centred since step 60; passed: dead-relu."


def test_a_cause_that_has_passed_counts_as_much_as_what_is_left_of_it() -> None:
    """A warm-up that was too fast is over; the units that it killed stay dead."""
    cause = make_finding("learning-rate-too-high", until=90, cause_of=("dead-relu",))
    left = make_finding("dead-relu", severity="suspect", caused_by="learning-rate-too-high")
    verdict = judge([cause, left], make_run())
    assert verdict.tone == "suspect"
    assert verdict.sentence == (
        "Worth a look: learning-rate-too-high from step 60 to 400, which explains dead-relu."
    )


def test_a_cause_counts_as_much_as_the_worst_that_follows_from_it() -> None:
    """A scale of the inputs is worth a look, and the units that it killed are the end."""
    findings = [
        make_finding("dead-relu", severity="bad", caused_by="unnormalised-input"),
        make_finding("unnormalised-input", severity="suspect"),
        make_finding("missing-gradient", severity="suspect"),
    ]
    verdict = judge(findings, make_run())
    assert verdict.tone == "bad"
    assert verdict.sentence.startswith("Training is broken: unnormalised-input since step 60")
    assert [cause.finding.code for cause in verdict.causes] == [
        "unnormalised-input",
        "missing-gradient",
    ]


def test_a_cause_that_was_noticed_after_its_consequences_is_said_to_be_seen_from_then_on() -> None:
    decay = replace(make_finding("over-regularisation"), steps=(227, 400))
    plateau = make_finding("loss-plateau", caused_by="over-regularisation")
    assert "over-regularisation, seen from step 227 on, which explains loss-plateau" in (
        judge([decay, plateau], make_run()).sentence
    )


def test_a_chain_is_told_in_its_order_also_when_a_part_of_it_has_passed() -> None:
    findings = [
        make_finding("unnormalised-input"),
        make_finding("loss-plateau", caused_by="constant-prediction"),
        make_finding("constant-prediction", caused_by="missing-gradient", until=300),
        make_finding("missing-gradient", caused_by="unnormalised-input", until=300),
    ]
    (cause,) = fold(findings)
    assert [found.code for found in cause.consequences] == [
        "missing-gradient",
        "constant-prediction",
        "loss-plateau",
    ]


def test_each_consequence_links_to_what_it_follows_from() -> None:
    findings = [
        make_finding("unnormalised-input"),
        make_finding("missing-gradient", caused_by="unnormalised-input"),
        make_finding("constant-prediction", caused_by="missing-gradient"),
    ]
    text = render(page(make_run(), findings))
    for number, code in ((1, "unnormalised-input"), (2, "missing-gradient")):
        badge = rf'<a class="badge \w+" href="#finding-{number}"[^>]*>{number}</a>'
        assert re.search(rf"<dt>Caused by</dt><dd>\s*{badge}\s*{code}", text)


# --- the terminal ---


def test_a_finding_is_said_in_a_few_lines() -> None:
    out = Console(file=io.StringIO(), width=100)
    say(make_finding(), console=out)
    assert [line.rstrip() for line in text_of(out).splitlines()] == [
        "",
        "✖ BAD  dead-relu  since step 60",
        "  45 % of the units at 3/relu#0 fired for none of 5,000 samples.",
        "  Where         3/relu#0 and 5/relu#0",
        "  Do            Lower the learning rate and start again: dead units do not come back.",
    ]


def test_a_finding_is_said_with_its_cause_and_what_it_explains() -> None:
    out = Console(file=io.StringIO(), width=100)
    say(make_finding(caused_by="learning-rate-too-high"), console=out)
    say(make_finding("learning-rate-too-high", cause_of=("dead-relu",)), console=out)
    assert "  Caused by     learning-rate-too-high" in text_of(out)
    assert "  Explains      dead-relu" in text_of(out)


UNSURE = make_finding(
    caused_by="init-scale",
    confidence="low",
    because=("Large weights do so.", "It was there before training began."),
    rivals=("unnormalised-input",),
    experiment="Standardise the inputs.",
    before=(Event("lr-rise", 58, "The learning rate of `g` rose from 0.1 to 1 at step 58."),),
)


def test_how_sure_a_cause_is_and_what_would_tell_is_said() -> None:
    out = Console(file=io.StringIO(), width=100)
    say(UNSURE, console=out)
    assert [line.rstrip() for line in text_of(out).splitlines()][4:9] == [
        "  Just before   The learning rate of `g` rose from 0.1 to 1 at step 58.",
        "  Caused by     init-scale (confidence low)",
        "  Because       Large weights do so. It was there before training began.",
        "  Or by         unnormalised-input",
        "  To tell       Standardise the inputs.",
    ]
    told = "".join(read(render(page(make_run(), [UNSURE]))).text)
    for part in ("init-scale (confidence low)", "Large weights do so.", "Standardise the inputs."):
        assert part in told


def test_a_finding_is_explained_where_the_manual_knows_it() -> None:
    own = make_finding("a-rule-of-my-own")
    html = render(page(make_run(), [make_finding(), own]))
    assert "<summary>What dead-relu means</summary>" in html
    assert "the network is smaller" in html
    assert "What a-rule-of-my-own means" not in html


def test_many_rules_that_could_not_judge_take_a_few_lines_on_the_terminal() -> None:
    history = make_run(last=4)
    history.update_meta({"not_judged": {f"rule-{i}": "no data" for i in range(9)}})
    out = Console(file=io.StringIO(), width=200)
    summary([], history, console=out)
    assert "rule-2 (no data), and 6 more: `lightning-diag report` shows them" in text_of(out)
    assert "rule-8" in "".join(read(render(page(history, []))).text)


def test_without_a_terminal_nothing_but_text_is_printed() -> None:
    for run in RUNS:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", printed(run))


def test_severity_is_told_by_mark_and_word_and_not_by_colour_alone() -> None:
    for severity, told in {"bad": "✖ BAD", "suspect": "▲ SUSPECT", "note": "● NOTE"}.items():
        out = Console(file=io.StringIO(), width=80)
        say(make_finding(severity=severity), console=out)
        assert told in text_of(out)


def test_a_healthy_run_takes_a_few_calm_lines() -> None:
    lines = printed("healthy").strip().splitlines()
    assert lines[0] == "✔ lightning_diag: No problem found in 73 steps watched up to step 400."
    assert len(lines) <= 3


def test_the_summary_holds_evidence_remedy_coverage_and_cost() -> None:
    text = " ".join(printed("killed").split())
    for part in (
        "measured 0.31, threshold 0.03, window 40, seen on 40 watched steps",
        "Divide the learning rate by 30.",
        "└─ ✖ BAD dead-relu",
        "gradients (12 parameters)",
        "Not observed saturation (the model calls no saturating function)",
        "Overhead 0.7% of the training time",
    ):
        assert part in text


def test_the_path_of_the_report_is_never_broken_over_lines() -> None:
    path = Path("a" * 60, "b" * 60, "report.html")
    out = Console(file=io.StringIO(), width=40)
    summary([], make_run(), report=path, console=out)
    assert str(path) in text_of(out)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_stream_that_is_not_unicode_gets_text_that_it_can_hold(encoding: str) -> None:
    paper = io.BytesIO()
    out = Console(file=io.TextIOWrapper(paper, encoding=encoding, write_through=True), width=80)
    finding = make_finding(message="The ratio is 30 × too high at модель.")
    say(finding, console=out)
    summary([finding], make_run(), console=out)
    text = paper.getvalue().decode(encoding)
    assert "x BAD  dead-relu" in text
    assert "\\u043c" in text


def test_names_cannot_steer_the_terminal_nor_be_read_as_markup() -> None:
    text = printed("hostile", width=300)
    assert "<script>alert(2)</script>[/red]\\x1b[2J\\u202e" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_tqdm_bar_is_cleared_before_a_finding_and_drawn_again_below() -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    paper = io.StringIO()
    out = Console(file=paper, width=80, force_terminal=True, color_system=None)
    with tqdm(total=10, file=paper, ncols=60, mininterval=0) as bar:
        bar.update(5)
        before = paper.getvalue()
        say(make_finding(), console=out)
        added = paper.getvalue()[len(before) :]
        assert "dead-relu" in added
    blank, said, bar_again = re.split(r"(?<=\r)(?=\n✖)|(?=\r *50%)", added, maxsplit=2)
    assert not blank.strip()
    assert said.endswith("\n")
    assert "5/10" in bar_again


def test_in_a_file_a_finding_ends_the_line_of_a_tqdm_bar_and_clears_nothing() -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    paper = io.StringIO()
    with tqdm(total=10, file=paper, ncols=60, mininterval=0) as bar:
        bar.update(5)
        before = paper.getvalue()
        say(make_finding(), console=Console(file=paper, width=80))
        added = paper.getvalue()[len(before) :]
    assert added.startswith("\n✖ BAD  dead-relu")
    assert added.endswith("\n")
    assert "\r" not in added


def test_a_finding_stands_above_a_rich_progress_bar() -> None:
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Progress(console=out, auto_refresh=False) as progress:
        progress.add_task("training", total=10, completed=5)
        progress.refresh()
        say(make_finding(), console=out)
    lines = [line for line in text_of(out).splitlines() if "dead-relu" in line]
    assert len(lines) == 1
    assert "training" not in lines[0]
    assert text_of(out).rindex("training") > text_of(out).index("dead-relu")


# --- what was watched ---


def test_what_was_not_observed_is_said_with_its_reason() -> None:
    history, _ = RUNS["vanished"]()
    assert coverage.not_observed(history) == "dead ReLU units (the model calls no ReLU)"
    short = make_run(last=2)
    assert "dead ReLU units (called, but too few samples were seen to judge)" in (
        coverage.not_observed(short)
    )


def test_all_that_was_watched_is_named_and_neighbours_share_their_number() -> None:
    """The verdict rests on more than gradients: outputs, data, weights and noise have rules too."""
    history = make_run(last=2)
    record = next(history.records())
    more = {
        "weight/std": {"0.weight": 0.1, "2.weight": 0.1},
        "embedding/mean_cosine": {"words.weight": 0.1},
        "batch_norm/mean_gap": {"1/batch_norm#0": 0.1},
        "input/mean": {"0/linear#0": 0.1},
        "data/mean": {"train/0": 0.1, "validation/0": 0.1},
        "validation/val_loss": {"": 1.0},
        "gradient/cosine": {"": 0.5},
    }
    history.append(Record(3, {**record.values, **more}, {"loss/train": [1.0]}))
    assert coverage.watched(history) == (
        "gradients (12 parameters), weight updates (6 parameters), weights (2 parameters), "
        "embeddings, activations (6 call sites), batch norm, outputs, inputs, data (2 tensors), "
        "validation, learning rate, loss, gradient noise"
    )
    assert coverage.watched(make_run(kind="sigmoid")) == (
        "gradients (12 parameters), weight updates (6 parameters), "
        "activations and saturation (6 call sites), outputs, learning rate, loss"
    )


def test_what_many_trainings_lack_is_not_called_missing() -> None:
    """No batch norm is no gap in what was watched; no output is."""
    history = History()
    history.append(Record(0, {"lr/value": {"SGD/group0": 0.1}}, {"loss/train": [1.0]}))
    assert coverage.watched(history) == "learning rate, loss"
    missed = coverage.not_observed(history)
    assert "outputs (no call of a loss function was seen)" in missed
    assert not [name for name in ("batch norm", "embeddings", "validation") if name in missed]


def test_rules_that_could_not_judge_are_named_with_the_reason() -> None:
    history = make_run(last=4)
    history.update_meta({"not_judged": {"learning-rate-too-low": "there are fewer than 16 losses"}})
    out = Console(file=io.StringIO(), width=100)
    summary([], history, console=out)
    assert "Not judged    learning-rate-too-low (there are fewer than 16 losses)" in text_of(out)
    assert "there are fewer than 16 losses" in "".join(read(render(page(history, []))).text)


def test_overhead_that_was_not_measured_is_not_called_zero() -> None:
    assert coverage.overhead(History()) == "not measured"


# --- axes and scales ---


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 0.0),
        (0.0, 0.037),
        (0.0, 9.3),
        (-5.0, -5.0),
        (-3.0, 4.0),
        (0.0, 1e30),
        (-1e308, 1.7e308),
    ],
)
def test_a_linear_axis_holds_its_values_and_has_two_to_six_ticks(low: float, high: float) -> None:
    axis = Axis.around(low, high)
    assert 0 <= axis.at(low) <= axis.at(high) <= 100
    assert 2 <= len(axis.ticks()) <= 8
    assert (axis.ticks()[0].at, axis.ticks()[-1].at) == (0, 100)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (0.02, 3.0), (1e-7, 3.0), (1e-300, 1e300), (5e-324, 1.0)]
)
def test_a_logarithmic_axis_holds_its_values_and_has_two_to_six_ticks(
    low: float, high: float
) -> None:
    axis = Axis.around(low, high, log=True)
    assert 0 <= axis.at(low) <= axis.at(high) <= 100
    assert 2 <= len(axis.ticks()) <= 6


def test_equal_factors_are_equally_long_on_a_logarithmic_axis() -> None:
    axis = Axis.around(0.01, 100.0, log=True)
    assert [axis.at(value) for value in (0.01, 0.1, 1.0, 10.0, 100.0)] == [0, 25, 50, 75, 100]


def test_steps_between_ticks_are_round() -> None:
    assert [round_step(span) for span in (1.0, 1347.0, 0.03)] == [0.2, 500.0, 0.01]


@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 1.1], [1e-3, 1.0], [1e-9, 1.0], [5e-324, 1.7e308], [0.0], []]
)
def test_a_colour_scale_takes_at_most_nine_colours_and_one_label_each(values: list[float]) -> None:
    scale = magnitudes(values)
    assert len(scale.styles) == len(scale.labels) == len(scale.edges) + 1 <= 9
    assert len(set(scale.styles)) == len(scale.styles)
    assert list(scale.edges) == sorted(set(scale.edges))


def test_numbers_that_are_nearly_alike_get_nearly_the_same_colour() -> None:
    scale = magnitudes([0.9, 1.1])
    near, far = (int(scale.style(value)[1:]) for value in (0.9, 1.1))
    assert far - near <= 2


# --- the loss curve ---


def test_a_falling_loss_is_drawn_from_left_top_to_right_bottom() -> None:
    chart = losses([2.0, 1.5, 1.0, 0.5, 0.2])
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", chart.line)[1:]]
    assert [x for x, _ in points] == [0, 250, 500, 750, 1000]
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert chart.text == "Training loss from 2 at step 0 to 0.2 at step 4"


def test_steps_whose_loss_is_not_finite_are_marked_and_not_drawn() -> None:
    """P13: what is not finite is neither fatal nor hidden."""
    chart = losses([1.0, 1.0, math.nan, math.inf, 1.0])
    (gap,) = chart.gaps
    assert (gap.at, gap.width) == (50, 25)
    assert gap.title == "steps 2 to 3: 2 NaN or inf"
    assert chart.line.count("M") == 2
    assert "nan" not in chart.line + chart.band


def test_a_loss_that_is_never_finite_is_drawn_as_such() -> None:
    chart = losses([math.nan] * 3)
    assert (chart.line, chart.band) == ("", "")
    assert chart.gaps[0].width == 100


def test_a_loss_over_many_decades_gets_a_logarithmic_axis() -> None:
    assert losses([1e6, 1.0]).log
    assert not losses([2.3, 0.1]).log
    assert not losses([1e6, 1.0, -1.0]).log


def test_a_long_run_is_drawn_with_few_points_and_keeps_its_spike() -> None:
    values = [1.0] * 100_000
    values[54_321] = 40.0
    chart = losses(values)
    assert chart.line.count("L") < 500
    heights = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", chart.band)]
    assert min(heights) == 1000 * (1 - 40 / 40)


def test_findings_that_begin_at_one_step_are_marked_beneath_each_other() -> None:
    history, findings = RUNS["killed"]()
    chart = loss_chart(history, findings)
    assert chart is not None
    assert [(mark.number, mark.level) for mark in chart.marks] == [(1, 0), (2, 0), (3, 1)]


# --- heat maps ---


def first_map(metric: str, values: dict[str, list[float | None]]) -> HeatMap:
    return heat_maps(history_of(metric, values), [])[0]


def styles(heat: HeatMap) -> dict[str, str]:
    return {row.name: " ".join(cell.style for cell in row.cells) for row in heat.rows}


def test_rows_are_in_the_models_order() -> None:
    names = [f"net.{i}" for i in range(12)]
    heat = first_map("gradient/layer_norm", {name: [1.0] for name in names})
    assert [row.name for row in heat.rows] == names
    assert [row.short for row in heat.rows] == [name.removeprefix("net.") for name in names]


def test_not_observed_zero_and_not_finite_look_unlike_each_other_and_any_number() -> None:
    """P13; and what was not observed is never 0."""
    heat = first_map(
        "gradient/layer_norm",
        {"a": [1.0, 0.0, math.nan, None], "b": [1.0, math.inf, 1e-4, None], "c": [1.0] * 4},
    )
    assert styles(heat)["a"].split()[1:] == ["z", "x", "u"]
    assert styles(heat)["b"].split()[1] == "x"
    assert [s.label for s in heat.legend][-3:] == ["exactly 0", "NaN or inf", "not observed"]
    assert [cell.title for cell in heat.rows[0].cells] == [
        "0: 1",
        "1: 0",
        "2: NaN",
        "3: not observed",
    ]


def test_a_legend_explains_only_what_occurs() -> None:
    heat = first_map("gradient/layer_norm", {"a": [1.0, 2.0]})
    assert not {"z", "x", "u"} & {swatch.style for swatch in heat.legend}


def test_a_column_of_several_steps_shows_the_largest_number_and_keeps_nan() -> None:
    n = 240
    line: list[float | None] = [1e-3] * n
    line[100], line[200], line[221] = 1.0, math.nan, math.nan
    heat = first_map("gradient/layer_norm", {"a": line})
    titles = [cell.title for cell in heat.rows[0].cells]
    assert len(titles) == 120
    assert titles[50] == "100–101: 1"
    assert titles[100] == "200–201: NaN"
    assert titles[110] == "220–221: NaN"


def test_a_vanishing_gradient_is_seen_as_colours_that_rise_with_depth() -> None:
    """W1."""
    history, findings = RUNS["vanished"]()
    rows = heat_maps(history, findings)[0].rows
    colours = [int(row.cells[-1].style[1:]) for row in rows]
    assert colours == sorted(colours)
    assert colours[0] < colours[-1]
    assert [row.marks for row in rows[:4]] == [((1, "bad"),)] * 3 + [()]


def test_update_ratios_leave_biases_out_when_weights_are_known() -> None:
    history = make_run()
    history.append(Record(401, {"update/ratio": {"0.weight": 1e-3, "0.bias": 0.5}}))
    (heat,) = (each for each in heat_maps(history, []) if "ratio" in each.title)
    assert "0.bias" not in [row.name for row in heat.rows]


def test_too_many_places_are_thinned_but_never_those_of_a_finding() -> None:
    names = [f"blocks.{i}.weight" for i in range(3000)]
    found = make_finding(places=("blocks.1501.weight",))
    history = history_of("gradient/layer_norm", {name: [1.0] for name in names})
    (heat,) = heat_maps(history, [found])
    assert MOST_ROWS - 1 <= len(heat.rows) <= MOST_ROWS
    assert "blocks.1501.weight" in [row.name for row in heat.rows]
    assert heat.left_out == 3000 - len(heat.rows)


# --- the page ---

Element = tuple[str, dict[str, str | None]]


class _Reader(HTMLParser):
    """Collects elements and text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


def html_of(run: str) -> str:
    history, findings = RUNS[run]()
    return render(page(history, findings))


@pytest.fixture(scope="module", params=sorted(RUNS))
def html(request: pytest.FixtureRequest) -> str:
    return html_of(request.param)


def test_the_page_needs_no_network_and_no_file_beside_it(html: str) -> None:
    reader = read(html)
    assert not {tag for tag, _ in reader.elements} & {"link", "iframe", "object", "embed", "base"}
    for _, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not {"src", "style"} & set(attributes)
        assert str(attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\((?!#hatch)|@import", html)


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_the_pages_own_style_and_scripts_and_nothing_else(html: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    style = html.partition("<style>")[2].partition("</style>")[0]
    scripts = [digest(text) for text in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)]
    assert policy == (
        f"default-src 'none'; style-src {digest(style)}; "
        f"script-src {' '.join(scripts) if scripts else repr('none')}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_the_page_is_small_and_every_id_is_unique(html: str) -> None:
    assert len(html.encode()) < 6_000_000
    ids = [attributes["id"] for _, attributes in read(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_link_of_the_page_leads_somewhere(html: str) -> None:
    elements = read(html).elements
    ids = {f"#{attributes.get('id')}" for _, attributes in elements}
    assert {a["href"] for tag, a in elements if tag == "a"} <= ids


def test_hostile_names_are_text() -> None:
    html = html_of("hostile")
    reader = read(html)
    shown = plain(HOSTILE)
    assert shown in "".join(reader.text)
    assert any(attributes.get("title") == f"{shown}.0" for _, attributes in reader.elements)
    assert "<img" not in html
    assert "\u202e" not in html


def test_names_between_backticks_are_set_as_code() -> None:
    finding = make_finding(remedy="Use `torch.nn.<b>ReLU</b>` or `nothing.")
    html = render(page(make_run(), [finding]))
    assert "Use <code>torch.nn.&lt;b&gt;ReLU&lt;/b&gt;</code> or `nothing." in html


def test_all_three_hundred_layers_have_a_row_each() -> None:
    rows = read(html_of("huge")).elements
    names = [a["title"] for tag, a in rows if tag == "th" and a.get("title")]
    assert [name for name in names if str(name).endswith("weight")] == [
        f"model.encoder.blocks.{2 * i}.weight" for i in range(300)
    ]


def test_the_verdict_is_the_pages_first_heading() -> None:
    text = "".join(read(html_of("killed")).text)
    verdict, first_section = text.index("Training is broken"), text.index("Findings")
    assert text.index("Divide the learning rate by 30.") < first_section
    assert verdict < first_section


def test_a_page_of_an_empty_history_says_that_nothing_was_watched() -> None:
    text = "".join(read(render(page(History(), []))).text)
    assert "no optimizer step was watched" in text
    assert "No loss was observed." in text


def test_a_page_replaces_an_older_one_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    findings: list[Finding] = []
    for _ in range(2):
        assert write_html(make_run(), findings, path) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_page_from_a_file_equals_the_page_of_the_run(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        for step in range(5):
            values = {"gradient/layer_norm": {"a": 0.5, "b": math.nan}, "update/ratio": {}}
            history.append(Record(step, values, {"loss/train": [2.0 - 0.25 * step]}))
        history.add_finding(make_finding())
        during = render(page(history, history.findings))
    stored = History.open(tmp_path)
    assert render(page(stored, stored.findings)) == during


def measured(**numbers: float) -> dict[str, str]:
    values = {f"noise_scale/{name}": {"": value} for name, value in numbers.items()}
    history = History()
    history.append(Record(step=0, values=values))
    return dict(key_numbers(history))


def test_a_measured_noise_scale_is_told_as_what_it_says_of_the_batch_size() -> None:
    """W15: and only where it was measured; an interval may have no upper end."""
    assert "Batch size" not in measured()
    assert "Batch size" not in measured(batch_size=32)
    known = {"low": 800.0, "high": 1300.0, "batch_size": 32.0}
    advice = suggest_batch_size(1000.0, 32, low=800.0, high=1300.0)
    assert measured(samples=1000.0, **known)["Batch size"] == advice.reason
    assert advice.verdict == "small"
    open_end = measured(samples=10.0, low=1.0, batch_size=4000.0)["Batch size"]
    assert open_end == suggest_batch_size(10.0, 4000, low=1.0, high=math.inf).reason
