"""The payload is strict JSON, small, and says what it leaves out."""

from __future__ import annotations

import html
import json
import math
import random
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import HOSTILE, RUNS, make_finding, make_run

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report.ending import ending
from lightning_diag.report.html import page, render
from lightning_diag.report.payload import State, as_text, payload
from lightning_diag.report.payload.axis import MOST as MOST_RECORDS
from lightning_diag.report.payload.numbers import chosen, harmless, spread, thinned, tidy
from lightning_diag.report.verdict import judge
from lightning_diag.report.words import plain

Payload = dict[str, Any]


def drawn(history: History, findings: list[Finding], state: State = "unknown") -> Payload:
    return payload(history, judge(findings, history), state=state)


def parsed(text: str) -> Any:
    """Read JSON as strictly as a browser does."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module", params=sorted(RUNS))
def run(request: pytest.FixtureRequest) -> Payload:
    return drawn(*RUNS[request.param]())


def strings(value: Any) -> Iterator[str]:
    """Yield all texts within plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


# --- as text ---


def test_the_payload_is_strict_json_and_survives_it(run: Payload) -> None:
    read = parsed(as_text(run))
    assert read.keys() == run.keys()
    assert read == harmless(run)


def test_the_text_holds_no_letter_that_markup_is_made_of(run: Payload) -> None:
    """A name may be `</script>`, and a page must not end there."""
    assert not re.search(r"[<>&\u2028\u2029]|[^ -~]", as_text(run))


def test_the_page_holds_the_payload_as_it_is() -> None:
    for make in RUNS.values():
        history, findings = make()
        html = render(page(history, findings))
        (text,) = re.findall(
            r'<script type="application/json" id="run">(.*?)</script>', html, re.DOTALL
        )
        assert parsed(text) == parsed(as_text(drawn(history, findings)))


def test_names_cannot_steer_who_shows_them() -> None:
    found = list(strings(parsed(as_text(drawn(*RUNS["hostile"]())))))
    assert [text for text in found if plain(HOSTILE) in text]
    assert not [text for text in found if re.search("[\x00-\x08\x1b\u202e]", text)]


def test_lone_surrogates_of_a_name_can_be_written() -> None:
    history = History()
    history.append(Record(0, {"gradient/layer_norm": {"a\udcff": 1.0}}))
    assert as_text(drawn(history, [])).encode("ascii")


# --- numbers ---


@given(st.floats())
def test_a_number_is_written_with_six_digits_or_as_what_it_is_not(value: float) -> None:
    """P13: what is not finite is neither hidden nor bare in JSON."""
    written = tidy(value)
    if math.isfinite(value):
        assert written == pytest.approx(value, rel=5e-6)
        assert len(Decimal(json.dumps(written)).normalize().as_tuple().digits) <= 6
    else:
        assert written == {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")


@given(st.integers(1, 400), st.integers(2, 50))
def test_what_is_spread_keeps_the_ends_and_is_even(n: int, most: int) -> None:
    kept = spread(n, most)
    assert len(kept) == min(n, most)
    assert (kept[0], kept[-1]) == (0, n - 1) or n == 1
    gaps = {b - a for a, b in pairwise(kept)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.floats(), min_size=1, max_size=300), st.integers(5, 60))
def test_a_thinned_curve_keeps_ends_extremes_and_what_is_not_finite(
    values: list[float], most: int
) -> None:
    kept = thinned(range(len(values)), values, most)
    assert len(kept) <= most + 3
    assert {0, len(values) - 1} <= set(kept)
    finite = [value for value in values if math.isfinite(value)]
    shown = [values[i] for i in kept]
    if finite:
        assert {min(finite), max(finite)} <= set(shown)
    assert any(not math.isfinite(v) for v in shown) == any(not math.isfinite(v) for v in values)


def test_of_many_names_those_asked_for_stay_and_the_order_too() -> None:
    names = [f"n{i}" for i in range(100)]
    kept = chosen(names, 10, ["n41", "n7", "elsewhere"])
    assert len(kept) == 10
    assert {"n7", "n41"} <= set(kept)
    assert kept == sorted(kept, key=names.index)


# --- the whole ---


def test_a_history_without_anything_gives_a_payload_without_anything() -> None:
    empty = drawn(History(), [])
    assert empty["tone"] == "unknown"
    assert (empty["axis"]["step"], empty["maps"], empty["loss"]["train"]) == ([], [], None)
    assert (empty["histograms"], empty["series"], empty["gap"]) == ([], {}, None)
    assert empty["thinned"] == []
    parsed(as_text(empty))


def test_the_axis_tells_epoch_and_time_of_each_record() -> None:
    history = History()
    for step, epoch, seconds in ((0, 0, 0.0), (7, 0, 1.25), (40, 2, 9.0)):
        history.append(Record(step, {"gradient/total_norm": {"": 1.0}}, {}, {}, epoch, seconds))
    assert drawn(history, [])["axis"] == {
        "step": [0, 7, 40],
        "epoch": [0, 0, 2],
        "seconds": [0, 1.25, 9],
    }


def test_findings_have_the_numbers_of_the_page_and_know_their_layers() -> None:
    history, findings = RUNS["killed"]()
    content = page(history, findings)
    rows = content.payload["findings"]
    assert {row["code"]: row["number"] for row in rows} == content.numbers
    (dead,) = [row for row in rows if row["code"] == "dead-relu"]
    paths = [layer["path"] for layer in content.payload["layers"]]
    assert [paths[i] for i in dead["layers"]] == ["3", "5"]
    assert dead["steps"] == [60, 400]


def test_a_finding_that_has_passed_is_told_so() -> None:
    (row,) = drawn(make_run(), [make_finding(until=90)])["findings"]
    assert row["passed"]


@pytest.mark.parametrize(
    ("ended", "state", "told"),
    [
        (None, "unknown", ("unknown", "")),
        ("", "running", ("running", "")),
        ("finished", "unknown", ("ended", "finished")),
        ("KeyboardInterrupt", "ended", ("ended", "KeyboardInterrupt")),
    ],
)
def test_whether_the_run_goes_on_is_told_as_far_as_it_is_known(
    ended: str | None, state: State, told: tuple[str, str]
) -> None:
    history = make_run(last=4)
    if ended is not None:
        history.update_meta({"ended": ended})
    shown = drawn(history, [], state)
    assert (shown["state"], shown["ended"]) == told


def test_curves_of_a_model_and_of_the_users_own_metrics_are_there() -> None:
    history = make_run()
    history.note(100, {"validation/val_f1": {"": math.nan}, "metric/train_f1": {"": 0.25}})
    history.append(Record(401, {"output/accuracy": {"a/cross_entropy#0": 0.5}}))
    shown = drawn(history, [])["series"]
    assert shown["validation/val_f1"]["value"] == ["nan"]
    assert shown["metric/train_f1"]["title"] == "train_f1"
    assert shown["output/accuracy@a/cross_entropy#0"]["step"] == [401]
    assert shown["overhead/fraction"]["unit"] == "share"


def test_the_set_up_is_told_in_words_and_in_values() -> None:
    history = make_run()
    history.update_meta({"trainer": {"module": "Net", "gradient_clip_val": math.inf, "x": None}})
    shown = drawn(history, [])
    facts = dict(shown["facts"])
    assert facts["Model"] == "Net"
    assert facts["Optimizer"] == "Adam: lr 1e-3"
    assert facts["Parameters"] == "24,960 in 12 tensors"
    assert shown["environment"]["trainer"]["gradient_clip_val"] == "inf"
    assert shown["environment"]["parameters"][0] == {
        "name": "0.weight",
        "shape": [64, 64],
        "layer": "0",
        "trainable": True,
    }


def test_frozen_parameters_are_counted_apart() -> None:
    history = History()
    parts = {"a": {"shape": [10, 2], "trainable": True}, "b": {"shape": [5], "trainable": False}}
    history.update_meta({"parameters": parts})
    assert dict(drawn(history, [])["facts"])["Parameters"] == ("25 in 2 tensors, of which 5 frozen")


# --- size ---


def long_run(records: int, places: int) -> History:
    """Return a run of many records and places, a fifth of the records with numbers of each kind."""
    history = History(max_numbers=1 << 62)
    layers = [f"model.encoder.blocks.{i // 5}.part{i % 5}" for i in range(places)]
    history.update_meta(
        {
            "parameters": {
                f"{layer}.{part}": {"shape": [512, 512], "layer": layer, "trainable": True}
                for layer in layers
                for part in ("weight", "other")
            },
            "sites": {
                f"{layer}/{name}#0": {"function": name, "kind": name, "module": layer}
                for layer in layers
                for name in ("linear", "relu")
            },
        }
    )
    kinds = (
        ("gradient/layer_norm", ""),
        ("update/ratio", ".weight"),
        ("activation/std", "/relu#0"),
        ("dead_relu/fraction", "/relu#0"),
        ("activation/variance_gain", "/linear#0"),
    )
    rng = random.Random(3)
    noise = [rng.lognormvariate(-5, 1) for _ in range(2 * places)]
    bins = [float(rng.randrange(65_536)) for _ in range(32)]
    for step in range(records):
        metric, end = kinds[step % len(kinds)]
        at = rng.randrange(places)
        row = noise[at : at + places]
        values = {metric: {layer + end: v for layer, v in zip(layers, row, strict=True)}}
        values["lr/value"] = {f"group{i}": rng.random() for i in range(12)}
        lists = {}
        if step % 100 == 0:
            lists = {"activation/histogram": {f"{n}/relu#0": [0.0, 1.0, *bins] for n in layers}}
        history.append(Record(step, values, {"loss/train": [rng.random()]}, lists))
    return history


def test_a_page_of_500_places_and_10_000_records_stays_under_6_mb_and_says_what_it_leaves_out() -> (
    None
):
    history = long_run(10_000, 500)
    found = make_finding(places=("model.encoder.blocks.41.part3/relu#0",))
    content = page(history, [found])
    assert len(as_text(content.payload)) < 3_500_000
    assert len(render(content).encode()) < 6_000_000
    told = content.payload["thinned"]
    assert f"The axis names {MOST_RECORDS:,} of 10,000 records." in told
    assert "Gradient norm: 2,000 records in 80 columns; each shows the largest number." in told
    assert "452 histograms left out." in told
    histograms = [each["place"] for each in content.payload["histograms"]]
    assert found.places[0] in histograms


def test_a_small_run_is_shown_in_full() -> None:
    assert drawn(*RUNS["killed"]())["thinned"] == []


# --- how it ended ---


def _told(trainer: dict[str, Any], ended: str | None, *, running: bool = False) -> str:
    history = History()
    history.update_meta({"trainer": trainer} | ({} if ended is None else {"ended": ended}))
    history.append(Record(0, {}, {"loss/train": [2.0]}))
    history.append(Record(1499, {}, {"loss/train": [1.0] * 1499}, epoch=2))
    return ending(history, running=running)


def test_a_run_that_ended_as_it_should_is_not_spoken_of() -> None:
    assert _told({"max_epochs": 8}, "finished") == ""
    assert ending(History(), running=False) == ""


def test_what_ended_a_run_early_is_told_with_how_far_it_came() -> None:
    assert _told({"max_epochs": 8}, "RuntimeError") == (
        "The run was ended by RuntimeError at step 1,499, in epoch 3 of 8."
    )
    assert _told({"max_steps": 4000, "max_epochs": -1}, "KeyboardInterrupt") == (
        "The run was stopped by hand at step 1,499 of 4,000."
    )


def test_a_run_that_was_killed_is_told_as_one_that_wrote_no_end() -> None:
    told = "The run goes on or was killed: it wrote no end, and its last numbers are of step 1,499."
    assert _told({"max_epochs": -1}, None) == told
    assert _told({}, "") == told
    assert _told({}, "", running=True) == "The run goes on; this is as of step 1,499."


def test_the_page_says_what_ended_the_run_beside_the_verdict() -> None:
    history, findings = RUNS["killed"]()
    history.update_meta({"ended": HOSTILE})
    text = render(page(history, findings))
    assert f"ended by {plain(HOSTILE)}" in re.sub(r"&#?\w+;", _unescaped, text)
    assert text.index("was ended by") < text.index('id="finding-1"')


def _unescaped(match: re.Match[str]) -> str:
    return html.unescape(match.group())


# --- curves ---


def _clipped(coefficient: float) -> list[str]:
    history = History()
    for step in range(3):
        norms = {f"gradient/{name}_norm": {"": 2.0} for name in ("total", "clipped")}
        own = {"metric/reward": {"": 1.0}, "gradient/clip_coefficient": {"": coefficient}}
        history.append(Record(step, {**norms, **own}))
    return list(drawn(history, [])["series"])


def test_what_the_run_logged_itself_comes_first() -> None:
    assert _clipped(0.5)[0] == "metric/reward"


def test_curves_of_clipping_are_shown_only_where_something_was_clipped() -> None:
    both = {"gradient/clipped_norm", "gradient/clip_coefficient"}
    assert both <= set(_clipped(0.5))
    assert not both & set(_clipped(1.0))
