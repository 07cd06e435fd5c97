"""A clipping threshold from the norms of a run, and nothing where they say nothing (R6, P34)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from runs import Classifier, data, trainer

from lightning_diag import Doctor, GradientClipAdvisor, GradientMonitor, clip_advice
from lightning_diag._compat import MisconfigurationException
from lightning_diag.clipping.advice import percentile_of
from lightning_diag.history import History
from lightning_diag.record import Record


def told(
    norms: Sequence[float], clipped: Sequence[float] | None = None, place: str = ""
) -> History:
    """Return the history of a run that had these norms."""
    history = History()
    for step, norm in enumerate(norms):
        values = {"gradient/total_norm": {place: norm}}
        if clipped is not None:
            values["gradient/clip_coefficient"] = {place: clipped[step]}
        history.append(Record(step, values))
    return history


def even(count: int = 100, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [rng.uniform(0.8, 1.2) for _ in range(count)]


def test_the_threshold_is_the_percentile_of_the_norms_after_the_first_tenth() -> None:
    norms = [50.0] * 10 + [float(n) for n in range(1, 91)]
    (advice,) = clip_advice(told(norms)).values()
    assert advice.suggested == float(f"{np.percentile(norms[10:], 90):.2g}")
    assert (advice.observations, advice.largest, advice.median) == (90, 90.0, 45.5)


def test_even_norms_need_no_clipping() -> None:
    (advice,) = clip_advice(told(even())).values()
    assert advice.verdict == "even"
    assert advice.clipped_fraction is None
    assert "Clipping is hardly needed" in advice.reason


def test_steps_that_leap_out_are_told() -> None:
    norms = even()
    norms[50] = norms[70] = 40.0
    (advice,) = clip_advice(told(norms, [1.0] * 100)).values()
    assert advice.verdict == "spikes"
    assert advice.suggested == pytest.approx(1.2, abs=0.05)
    assert advice.clipped_fraction == 0.0
    assert "(0% of the steps were clipped)" in advice.reason
    assert f"gradient_clip_val={advice.suggested:g}" in advice.reason


def test_a_threshold_that_clips_most_steps_is_told_and_half_is_the_border() -> None:
    often = [0.5] * 60 + [1.0] * 40
    (advice,) = clip_advice(told(even(), often)).values()
    assert advice.clipped_fraction == pytest.approx(50 / 90)
    assert advice.verdict == "always"
    assert advice.reason.startswith("56% of the steps are clipped")
    (advice,) = clip_advice(told(even(), [0.5] * 54 + [1.0] * 46)).values()
    assert advice.verdict == "even"


def test_clipping_by_rounding_is_none() -> None:
    (advice,) = clip_advice(told(even(), [0.99995] * 100)).values()
    assert advice.clipped_fraction == 0.0


def test_norms_that_are_not_finite_are_counted_and_left_out() -> None:
    norms = even()
    norms[40:42] = [math.nan, math.inf]
    (advice,) = clip_advice(told(norms)).values()
    assert (advice.nonfinite, advice.observations) == (2, 88)
    assert advice.verdict == "even"


@pytest.mark.parametrize("count", [0, 1, 19])
def test_few_norms_are_insufficient_data(count: int) -> None:
    """What is not observed is said to be so, and no threshold is made up."""
    (advice,) = clip_advice(told(even(count))).values()
    assert advice.verdict == "insufficient data"
    assert advice.suggested is None
    assert "and 20 are needed" in advice.reason


def test_with_manual_optimisation_norms_are_clipped_already() -> None:
    """P34."""
    history = told(even())
    history.update_meta({"trainer": {"automatic_optimization": False}})
    (advice,) = clip_advice(history).values()
    assert advice.verdict == "insufficient data"
    assert "after whatever clips by hand" in advice.reason


def test_each_optimizer_has_advice_of_its_own() -> None:
    history = History()
    for step in range(60):
        norms = {"optimizer0": 1.0, "optimizer1": 100.0}
        history.append(Record(step, {"gradient/total_norm": norms}))
    advice = clip_advice(history)
    assert {place: one.suggested for place, one in advice.items()} == {
        "optimizer0": 1.0,
        "optimizer1": 100.0,
    }


def test_norms_of_zero_are_told_without_a_division() -> None:
    (advice,) = clip_advice(told([0.0] * 50)).values()
    assert (advice.verdict, advice.suggested) == ("even", 0.0)


@pytest.mark.parametrize("percentile", [1.0, 33.3, 90.0, 99.0])
def test_percentiles_are_those_of_numpy(percentile: float) -> None:
    values = sorted(even(37))
    assert percentile_of(values, percentile) == pytest.approx(np.percentile(values, percentile))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"percentile": 0.0}, "`percentile` must be above 0 and below 100, got 0.0"),
        ({"percentile": 100.0}, "`percentile` must be above 0"),
        ({"least": 1}, "`least` must be at least 2 norms, got 1"),
    ],
)
@pytest.mark.parametrize(
    "make", [GradientClipAdvisor, lambda **options: clip_advice(History(), **options)]
)
def test_bad_arguments_are_refused_in_one_sentence(
    make: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_the_function_needs_neither_torch_nor_lightning(run_python: Callable[..., str]) -> None:
    code = """
import sys
for name in ("torch", "lightning", "pytorch_lightning"):
    sys.modules[name] = None
from lightning_diag import History, clip_advice
print(clip_advice(History())[""].verdict)
"""
    assert run_python(code).strip() == "insufficient data"


def test_the_callback_advises_at_the_end_of_a_fit(caplog: pytest.LogCaptureFixture) -> None:
    doctor = Doctor(1, max_overhead=1e9, monitors=[GradientMonitor()], rules=[])
    advisor = GradientClipAdvisor()
    fit = trainer(doctor, advisor, max_epochs=8, gradient_clip_val=1e-4)
    with caplog.at_level("INFO", "pytorch_lightning"):
        fit.fit(Classifier(), data())
    assert advisor.advice == clip_advice(doctor.history)
    advice = advisor.advice[""]
    assert (advice.verdict, advice.clipped_fraction, advice.observations) == ("always", 1.0, 43)
    assert f"GradientClipAdvisor: {advice.reason}" in caplog.text


def test_without_doctor_it_is_refused_before_training() -> None:
    with pytest.raises(MisconfigurationException, match=r"add `Doctor\(\)` to its callbacks"):
        trainer(GradientClipAdvisor()).fit(Classifier(), data())


def test_a_short_run_is_insufficient_data() -> None:
    doctor = Doctor(1, max_overhead=1e9, monitors=[GradientMonitor()], rules=[])
    advisor = GradientClipAdvisor()
    trainer(doctor, advisor, max_epochs=1).fit(Classifier(), data())
    assert advisor.advice[""].verdict == "insufficient data"
