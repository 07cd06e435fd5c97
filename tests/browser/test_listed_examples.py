"""Lists of samples on the page, in a real browser (W13)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report_runs import HOSTILE

from browser.conftest import Open
from browser.pages import html_of, with_pictures


def listed(payload: dict[str, Any]) -> dict[str, Any]:
    """Add suspicious labels and confident mistakes in front of the largest losses."""
    worst = with_pictures(payload)["examples"]
    course = {"margin": -0.88, "looks": 10, "found": 76, "threshold": -0.56, "why": HOSTILE}
    suspicious = [{**one, **course, "kind": "suspicious", "name": HOSTILE} for one in worst]
    mistakes = [{**one, "kind": "mistakes"} for one in worst[:2]]
    examples = [*suspicious, *mistakes, *({**one, "kind": "worst"} for one in worst)]
    return {**with_pictures(payload), "examples": examples}


def test_lists_are_folded_but_the_first_and_say_what_they_are(
    open_page: Open, folder: Path
) -> None:
    """What comes from files stays text."""
    path = folder / "listed.html"
    path.write_text(html_of("sick", listed), encoding="utf-8", newline="\n")
    opened = open_page("listed")
    lists = opened.page.locator("#examples details")
    assert [one.get_attribute("open") is not None for one in lists.all()] == [True, False, False]
    titles = lists.locator("summary").all_inner_texts()
    assert titles == [
        "Suspicious labels in training 6 of 76",
        "Confident mistakes in training 2",
        "Largest loss in training 6",
    ]
    assert lists.nth(0).locator("li:visible").count() == 6
    assert lists.nth(1).locator("li:visible").count() == 0
    lists.nth(1).locator("summary").click()
    assert lists.nth(1).locator("li:visible").count() == 2
    first = lists.nth(0).locator("li").nth(1).inner_text()
    assert "Label" in first
    assert "1,235" in first
    assert "-0.88" in first
    assert "WorstExamples.suspicious" in lists.nth(0).inner_text()
    assert opened.complaints == []
