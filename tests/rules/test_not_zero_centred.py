"""`not-zero-centred`."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.not_zero_centred import NotZeroCentred
from rules.signal_stories import centred
from rules.stories import STEPS, flat, meta, story


def _found(history: Any) -> int:
    return len(NotZeroCentred()(history))


def test_sigmoids_in_a_network_that_is_slow_are_a_note() -> None:
    """W4."""
    (finding,) = NotZeroCentred()(story(centred(5.0), function="sigmoid", loss=flat))
    assert finding.severity == "note"
    assert len(finding.places) == 5
    assert "at least 5 standard deviations off (threshold 2) in each of the 8" in finding.message


@pytest.mark.parametrize(("ratio", "found"), [(2.01, 1), (1.99, 0), (-2.01, 1)])
def test_the_threshold_decides(ratio: float, found: int) -> None:
    assert _found(story(centred(ratio), function="sigmoid", loss=flat)) == found


@pytest.mark.parametrize(("after", "found"), [(STEPS[-9], 1), (STEPS[-8], 0)])
def test_all_of_the_newest_records_must_agree(after: int, found: int) -> None:
    assert _found(story(centred(5.0, after=after), function="sigmoid", loss=flat)) == found


def test_a_network_that_learns_is_healthy() -> None:
    assert _found(story(centred(5.0), function="sigmoid")) == 0
    early = [step for step in STEPS if step < 200]
    assert _found(story(centred(5.0), function="sigmoid", loss=flat, steps=early)) == 0


def test_gates_beside_other_activations_do_not_count() -> None:
    about = meta(function="relu")
    about["sites"] = {
        "gate/sigmoid#0": {"function": "sigmoid", "kind": "sigmoid", "module": "gate"},
        **about["sites"],
    }

    def change(step: int, values: Any) -> None:
        values["activation/mean"] = {"gate/sigmoid#0": 0.5}
        values["activation/std"] = {"gate/sigmoid#0": 0.1}

    verdict = NotZeroCentred().check(story(change, loss=flat, about=about))
    assert verdict == NotObserved("not-zero-centred", "no network of hidden sigmoids was seen")


def test_a_norm_behind_the_sigmoid_centres_it() -> None:
    about = meta(function="sigmoid")
    sites: dict[str, Any] = {}
    for place, site in about["sites"].items():
        sites[place] = site
        if site["kind"] == "sigmoid":
            module = site["module"] + ".norm"
            sites[f"{module}/batch_norm#0"] = {
                "function": "batch_norm",
                "kind": "norm",
                "module": module,
            }
    about["sites"] = sites
    assert _found(story(centred(5.0), function="sigmoid", loss=flat, about=about)) == 0
