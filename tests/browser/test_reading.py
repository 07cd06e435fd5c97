"""The page reads without scripts, on paper, and for those who see colours in another way."""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest

import lightning_diag
from browser.conftest import Open

ASSETS = Path(lightning_diag.__file__).parent / "report" / "assets" / "echarts"


def test_without_scripts_the_verdict_the_curve_and_the_tables_are_there(open_page: Open) -> None:
    page = open_page("sick", scripts=False).page
    assert page.locator("h1").inner_text().endswith("passed: loss-spike.")
    assert page.get_by_text("Put torch.nn.LayerNorm between the layers").first.is_visible()
    assert page.locator("#loss svg").first.is_visible()
    assert page.locator("#layers table.heat").count() >= 4
    assert page.locator("#layers table.heat").first.is_visible()
    for hidden in ("#controls", "#chart-loss", "#series", "#filters"):
        assert not page.locator(hidden).is_visible()
    assert page.locator("nav a:visible").count() == 4


def test_with_scripts_the_tables_are_folded_beneath_the_charts(open_page: Open) -> None:
    page = open_page("sick").page
    assert not page.locator("#loss .static").is_visible()
    assert not page.locator("table.heat").first.is_visible()
    page.get_by_text("As tables").click()
    assert page.locator("table.heat").first.is_visible()


def test_a_healthy_page_says_first_that_nothing_was_found_and_what_was_checked(
    open_page: Open,
) -> None:
    page = open_page("well").page
    text = page.locator(".verdict").inner_text()
    assert "No problem found in 119 steps watched up to step 1,000." in text
    assert "Checked: weight updates (12 parameters), activations (12 call sites)" in text


def test_the_cause_stands_on_top_and_what_follows_from_it_below(open_page: Open) -> None:
    page = open_page("sick").page
    top = page.locator(".verdict").inner_text()
    for part in ("vanishing-gradient", "Evidence", "What to do", "torch.nn.LayerNorm"):
        assert part in top
    assert page.locator(".verdict").bounding_box()["y"] < 200  # type: ignore[index]
    assert "dead-relu" in page.locator("#findings").inner_text()


def test_on_paper_all_charts_are_images_in_light_colours_and_nothing_is_folded(
    open_page: Open,
) -> None:
    opened = open_page("sick", scheme="dark")
    page = opened.page
    charts = page.locator("main .chart").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    sizes = page.evaluate(
        """Promise.all([...document.querySelectorAll("img.paper")].map(async (image) => {
          await image.decode();
          return [image.naturalWidth, image.clientWidth > 100, image.alt.length > 40];
        }))"""
    )
    assert len(sizes) == charts
    assert {size[0] for size in sizes} == {1360, 900, 660}
    assert all(size[1:] == [True, True] for size in sizes)
    assert page.locator("details:not([open]):not(.tables)").count() == 0
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("img.paper").count() == 0
    assert page.locator("details.finding[open]").count() == 0
    assert opened.complaints == []


def test_printing_from_the_browser_fills_pages(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    document = opened.page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", document)) >= 3
    assert document.count(b"/Subtype /Image") >= 10
    assert opened.page.locator("img.paper").count() == 0


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as the WCAG define it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_their_ground(open_page: Open, scheme: str) -> None:
    """WCAG 2.2 ask for 4.5 for text, and for 3 for parts of charts."""
    colours = open_page("well", scheme=scheme).page.evaluate("palette()")
    for ground in (colours["paper"], colours["panel"]):
        for name in ("ink", "quiet", "bad", "suspect", "note"):
            assert contrast(colours[name], ground) >= 4.5, name
        for name in ("line", "c0", "c1", "c2", "c3", "c4", "c5"):
            assert contrast(colours[name], ground) >= 3, name


def test_magnitudes_are_told_by_lightness_and_not_by_hue(read_page: Open) -> None:
    """Whoever sees no colours still sees more and less."""
    page = read_page("well").page
    stops = page.evaluate("VIRIDIS.map((stop) => stop.map((c) => c.toString(16).padStart(2, '0')))")
    lights = [luminance(f"#{''.join(stop)}") for stop in stops]
    assert lights == sorted(lights)
    assert all(b / a > 1.1 for a, b in pairwise(lights))


def test_lines_differ_by_dash_and_marker_and_not_by_colour_alone(read_page: Open) -> None:
    page = read_page("well").page
    for list_ in ("DASHES", "SHAPES"):
        forms = [json.dumps(form) for form in page.evaluate(list_)]
        assert all(a != b for a, b in combinations(forms, 2))


def test_the_charting_script_is_of_the_version_that_its_recipe_names(root: Path) -> None:
    recipe = json.loads((root / "tools/charts/package.json").read_text(encoding="utf-8"))
    version = recipe["devDependencies"]["echarts"]
    script = (ASSETS / "echarts.min.js").read_text(encoding="utf-8")
    assert script.startswith(f"/*! Apache ECharts {version} ")
    assert len(script) < 600_000


def test_licences_are_shipped_beside_the_charting_script_and_named_within() -> None:
    licence = (ASSETS / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert licence.count("Redistribution and use in source and binary forms") >= 2
    assert "Apache Software Foundation" in (ASSETS / "NOTICE").read_text(encoding="utf-8")
    head = (ASSETS / "echarts.min.js").read_text(encoding="utf-8")[:6000]
    assert head.count("Redistributions of source code must retain") == 2


@pytest.mark.parametrize("name", ["sick", "hostile", "well", "compare-two", "compare-many"])
def test_headings_never_skip_a_level(read_page: Open, name: str) -> None:
    """WCAG 1.3.1: who listens to a page finds the way by its headings."""
    page = read_page(name).page
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((n) => Number(n.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


@pytest.mark.parametrize("name", ["sick", "deep", "compare-two"])
def test_only_what_has_a_role_is_given_a_label(read_page: Open, name: str) -> None:
    """A label on a bare paragraph is not read out."""
    opened = read_page(name)
    bare = opened.page.evaluate(
        """[...document.querySelectorAll("[aria-label]")]
          .filter((n) => !n.hasAttribute("role") && ["P", "SPAN", "DIV", "I"].includes(n.tagName))
          .map((n) => n.outerHTML.slice(0, 80))"""
    )
    assert bare == []


@pytest.mark.parametrize("name", ["sick", "compare-two"])
def test_what_can_be_pressed_is_large_enough(open_page: Open, name: str) -> None:
    """WCAG 2.5.8: 24 pixels either way, links within text apart."""
    opened = open_page(name, width=390)
    opened.scroll_through()
    small = opened.page.evaluate(
        """[...document.querySelectorAll("main button:not(.pick), main select, .row, summary")]
          .filter((n) => n.getClientRects().length)
          .map((n) => [n.getBoundingClientRect(), n])
          .filter(([box]) => box.height < 23.9 || box.width < 23.9)
          .map(([box, n]) => `${box.width} ${box.height} ${n.outerHTML.slice(0, 80)}`)"""
    )
    assert small == []


def test_the_bar_that_stays_on_top_never_covers_what_has_the_focus(open_page: Open) -> None:
    """WCAG 2.4.11, also for what lies beneath it when the focus comes back to it."""
    opened = open_page("sick", width=800)
    opened.scroll_through()
    tops = opened.page.evaluate(
        """[...document.querySelectorAll("#layers summary, #series button, #basis [tabindex]")]
          .filter((node) => node.getClientRects().length)
          .map((node) => {
            scrollTo(0, node.getBoundingClientRect().top + scrollY - 10);
            node.focus();
            const bar = document.querySelector("#controls").getBoundingClientRect();
            return node.getBoundingClientRect().top - bar.bottom;
          })"""
    )
    assert len(tops) > 5
    assert min(tops) >= 0
