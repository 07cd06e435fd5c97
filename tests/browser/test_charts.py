"""In a browser, every chart of every page is drawn, and nothing else happens."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from browser.conftest import Open
from browser.pages import PAGES, picture, with_pictures

COLOURS = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


# `deep` is as large as `huge`
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "huge")) for n in sorted(PAGES)]
)
def test_every_chart_of_a_page_is_drawn_and_nothing_complains(read_page: Open, name: str) -> None:
    opened = read_page(name)
    charts = opened.page.locator("main .chart:visible").all()
    assert len(charts) >= {"empty": 1, "brief": 3, "broken": 4}.get(name, 5)
    for chart in charts:
        label = chart.get_attribute("aria-label")
        assert chart.locator("canvas").count() >= 1, label
        assert max(canvas.evaluate(COLOURS) for canvas in chart.locator("canvas").all()) > 3, label
    assert opened.complaints == []


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("sick", 390, "light"),
        ("sick", 800, "dark"),
        ("sick", 1400, "dark"),
        ("deep", 390, "dark"),
        ("hostile", 390, "dark"),
        # what fits into a narrow window fits into a wide one, whatever its colours
        pytest.param("sick", 390, "dark", marks=pytest.mark.slow),
        *(
            pytest.param(name, *window, marks=pytest.mark.slow)
            for name in ("deep", "hostile")
            for window in ((390, "light"), (800, "dark"), (1400, "dark"))
        ),
    ],
)
def test_a_page_is_never_wider_than_its_window(
    open_page: Open, name: str, width: int, scheme: str
) -> None:
    opened = open_page(name, width=width, scheme=scheme)
    opened.scroll_through()
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".row .name").first.click()
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width
    assert opened.complaints == []


def test_all_sections_of_a_full_run_are_there_and_the_page_names_them(read_page: Open) -> None:
    opened = read_page("sick")
    links = opened.page.locator("nav a:visible")
    assert links.all_inner_texts() == [
        "Findings",
        "Loss",
        "Layers",
        "Distributions",
        "More curves",
        "Filters",
        "Worst examples",
        "What it rests on",
        "Configuration",
    ]
    for link in links.all():
        target = link.get_attribute("href")
        assert target is not None
        assert opened.page.locator(target).is_visible()


def test_what_was_not_recorded_has_neither_a_section_nor_a_link(read_page: Open) -> None:
    page = read_page("healthy").page
    assert not page.locator("#distributions").is_visible()
    assert not page.get_by_role("link", name="Distributions").is_visible()


def test_names_that_look_like_markup_stay_text_wherever_they_are_shown(open_page: Open) -> None:
    opened = open_page("hostile")
    opened.scroll_through()
    page = opened.page
    tags = (
        "[...document.querySelectorAll('img, script')].map((n) => n.tagName + (n.src || '').length)"
    )
    before = Counter(page.evaluate(tags))
    chart = page.locator(".pane .chart").first
    chart.scroll_into_view_if_needed()
    chart.hover(position={"x": 100, "y": 12})
    assert "<img src=x onerror" in page.locator(".floating").inner_text()
    page.locator("#chart-loss .chart").hover(position={"x": 300, "y": 120})
    page.locator("#chart-layers > div > div > .chart").last.hover(position={"x": 300, "y": 90})
    opened.settle()
    page.locator(".row .name").first.click()
    assert "<img src=x onerror" in page.locator("dialog h2").inner_text()
    opened.settle()
    assert page.evaluate("typeof window.alerted") == "undefined"
    after = Counter(page.evaluate(tags))
    assert after == before
    assert opened.complaints == []


def test_charts_speak_to_those_who_cannot_see_them(read_page: Open) -> None:
    opened = read_page("sick")
    charts = opened.page.locator("main .chart[role=img]").all()
    labels = [chart.get_attribute("aria-label") for chart in charts]
    assert all(label and label.endswith(".") and len(label) > 40 for label in labels)
    loss = next(label for label in labels if label and label.startswith("Loss."))
    assert re.search(r"val_loss: [\d.]+ at step \d+, [\d.]+ at step \d+, from", loss)
    heat = next(label for label in labels if label and label.startswith("Heat map, Gradient norm"))
    assert "12 places" in heat
    assert "(model.head)" in heat


def test_every_control_has_a_name(open_page: Open) -> None:
    opened = open_page("sick")
    page = opened.page
    page.locator(".row .name").first.click()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, select, a, summary, [role=tree]")]
          .filter((n) => !(n.getAttribute("aria-label") || n.textContent.trim()))
          .map((n) => n.outerHTML)"""
    )
    assert nameless == []


def test_pictures_of_filters_and_examples_are_decoded(read_page: Open) -> None:
    page = read_page("sick").page
    sizes = page.evaluate(
        "[...document.querySelectorAll('#filters img, #examples img')].map((n) => n.naturalWidth)"
    )
    assert len(sizes) == 6
    assert set(sizes) == {24}
    assert page.locator("#examples li").count() == 6
    assert page.get_by_text("no picture").count() == 1


def test_a_picture_from_elsewhere_is_not_shown(read_page: Open) -> None:
    """The policy would refuse it; the page does not even ask."""
    opened = read_page("sick")
    asked = "isImage('https://example.org/a.png') || isImage('data:text/html;base64,PGI+')"
    assert opened.page.evaluate(asked) is False
    assert opened.page.evaluate("isImage", picture(lambda x, y: 0)) is True
    assert set(with_pictures({})) == {"filters", "examples"}
