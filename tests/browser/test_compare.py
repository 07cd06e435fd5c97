"""In a browser, the page that compares runs shows, zooms and reads as the report does."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from browser.conftest import Open, Opened
from browser.pages import COMPARISONS
from browser.test_charts import COLOURS

LOSS = "#chart-loss .chart"
DEPTH = "#metric-panel .chart >> nth=0"
PLACE = "#metric-panel .chart >> nth=1"


def depth_labels(opened: Opened) -> list[str]:
    """Return the layers that the chart along the depth names."""
    code = "chartOf(document.querySelector('#metric-panel .chart')).instance.getOption().xAxis[0]"
    return [str(label) for label in opened.page.evaluate(code)["data"]]


def hover(opened: Opened, chart: str, x: int, y: int) -> str:
    """Point into a chart, and return what its tooltip says."""
    opened.page.locator(chart).scroll_into_view_if_needed()
    opened.settle()
    opened.page.locator(chart).hover(position={"x": x, "y": y})
    opened.settle()
    return str(opened.page.locator(chart).locator(".tip").inner_text())


def leave(opened: Opened) -> None:
    """Take the pointer away, and wait until what it showed is gone."""
    opened.page.mouse.move(0, 0)
    opened.page.wait_for_timeout(300)


def drag(opened: Opened, chart: str, first: int, last: int) -> None:
    """Drag across a chart."""
    page = opened.page
    page.locator(chart).scroll_into_view_if_needed()
    box = page.locator(chart).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + first, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + last, box["y"] + 80, steps=4)
    page.mouse.up()
    opened.settle()


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_every_chart_of_a_comparison_is_drawn_and_nothing_complains(
    read_page: Open, name: str
) -> None:
    opened = read_page(name)
    charts = opened.page.locator("main .chart:visible").all()
    assert len(charts) >= {"compare-apart": 4}.get(name, 5)
    for chart in charts:
        label = chart.get_attribute("aria-label")
        assert label
        assert label.endswith(".")
        assert max(canvas.evaluate(COLOURS) for canvas in chart.locator("canvas").all()) > 3, label
    assert opened.complaints == []


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        pytest.param(
            name, *window, marks=[pytest.mark.slow] * (window[0] > 390 and name != "compare-two")
        )
        for name in sorted(COMPARISONS)
        for window in ((390, "light"), (800, "dark"), (1400, "light"))
    ],
)
def test_a_comparison_is_never_wider_than_its_window(
    open_page: Open, name: str, width: int, scheme: str
) -> None:
    opened = open_page(name, width=width, scheme=scheme)
    opened.scroll_through()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.complaints == []


def test_a_comparison_says_first_how_each_run_fares_and_what_to_do(open_page: Open) -> None:
    page = open_page("compare-two").page
    assert page.locator("h1").inner_text() == "2 runs compared: 1 broken and 1 without a problem"
    first, second = page.locator(".verdicts li").all_inner_texts()
    assert "BAD Training is broken: vanishing-gradient" in first
    assert "What to do: Put torch.nn.LayerNorm between the layers" in first
    assert "HEALTHY No problem found in 119 steps" in second
    box = page.locator(".verdicts").bounding_box()
    assert box is not None
    assert box["y"] < 150


def test_pointing_at_a_curve_tells_the_number_of_each_run_at_that_step(open_page: Open) -> None:
    told = hover(open_page("compare-two"), LOSS, 400, 120)
    step = re.match(r"step (\d+)", told)
    assert step
    assert 200 < int(step[1]) < 500
    assert re.search(r"before\s+[\d.]+", told)
    assert re.search(r"after\s+[\d.]+", told)


def test_pointing_at_a_layer_tells_the_medians_and_their_ratio(open_page: Open) -> None:
    opened = open_page("compare-two")
    told = hover(opened, DEPTH, 110, 100)
    assert told.startswith("model.encoder.embed")
    numbers = [
        float(re.search(rf"{name}\s+([\d.e-]+)", told)[1])  # type: ignore[index]
        for name in ("before", "after", "ratio")
    ]
    assert numbers[2] == pytest.approx(numbers[1] / numbers[0], rel=0.02)
    assert opened.complaints == []


def test_dragging_across_one_curve_zooms_all_curves(open_page: Open) -> None:
    opened = open_page("compare-two")
    opened.scroll_through()
    before = [opened.pixels(chart) for chart in (LOSS, PLACE, DEPTH)]
    drag(opened, LOSS, 300, 500)
    low, high = opened.page.evaluate("across.view")
    assert 150 < low < 300 < high < 500
    after = [opened.pixels(chart) for chart in (LOSS, PLACE, DEPTH)]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True, False]
    opened.page.locator(LOSS).dblclick(position={"x": 300, "y": 100})
    assert opened.page.evaluate("across.view") is None
    leave(opened)
    assert [opened.pixels(chart) for chart in (LOSS, PLACE, DEPTH)] == before


def test_dragging_along_the_depth_zooms_to_layers_and_back(open_page: Open) -> None:
    opened = open_page("compare-deep")
    opened.scroll_through()
    assert len(depth_labels(opened)) == 302
    drag(opened, DEPTH, 300, 400)
    names = depth_labels(opened)
    assert 10 < len(names) < 60
    assert all(re.search(r"\d+\.(attention|mlp)", name) for name in names)
    opened.page.locator(DEPTH).dblclick(position={"x": 300, "y": 100})
    opened.settle()
    assert len(depth_labels(opened)) == 302


def test_keys_zoom_along_the_depth_as_well(open_page: Open) -> None:
    opened = open_page("compare-deep")
    opened.scroll_through()
    page = opened.page
    press = {
        name: page.get_by_role("button", name=name, exact=True)
        for name in ("Fewer layers", "Later layers", "More layers", "All layers")
    }
    press["Fewer layers"].focus()
    for _ in range(4):
        page.keyboard.press("Enter")
    near = depth_labels(opened)
    assert len(near) < 40
    press["Later layers"].press("Enter")
    assert depth_labels(opened) != near
    assert len(depth_labels(opened)) == len(near)
    press["More layers"].press("Enter")
    assert len(depth_labels(opened)) > len(near)
    press["All layers"].press("Enter")
    assert len(depth_labels(opened)) == 302


def test_a_run_is_hidden_on_all_charts_and_shown_again(open_page: Open) -> None:
    opened = open_page("compare-two")
    opened.scroll_through()
    before = [opened.pixels(chart) for chart in (LOSS, DEPTH, PLACE)]
    button = opened.page.locator("#controls").get_by_role("button", name="before")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert all(a != opened.pixels(b) for a, b in zip(before, (LOSS, DEPTH, PLACE), strict=True))
    assert "before" not in hover(opened, LOSS, 400, 120)
    button.click()
    leave(opened)
    assert [opened.pixels(chart) for chart in (LOSS, DEPTH, PLACE)] == before


def test_single_steps_are_shown_where_smoothing_is_switched_off(open_page: Open) -> None:
    opened = open_page("compare-two")
    before = opened.pixels(LOSS)
    opened.page.get_by_role("button", name="Smoothed").click()
    assert opened.pixels(LOSS) != before
    shown = opened.page.evaluate("allLines[0].values.slice(0, 3)")
    assert shown == opened.page.evaluate("run.loss.lines[0].value.slice(0, 3)")


def test_each_run_is_shown_by_epochs_and_times_of_its_own(open_page: Open) -> None:
    """Both have 10 epochs, one of 400 steps each, the other of 100."""
    opened = open_page("compare-deep")
    page = opened.page
    ends = "allLines.slice(0, 2).map((line) => line.steps[line.steps.length - 1])"
    assert page.evaluate(ends) == [4000, 1000]
    page.get_by_role("radio", name="Epoch", exact=True).click()
    assert page.evaluate(ends) == pytest.approx([10, 10], abs=0.2)
    assert hover(opened, LOSS, 400, 120).startswith("epoch ")
    page.get_by_role("radio", name="Time", exact=True).click()
    assert page.evaluate(ends) == pytest.approx([3600, 900])
    assert "min" in hover(opened, LOSS, 400, 120)
    drag(opened, LOSS, 300, 500)
    low, high = page.evaluate("across.view")
    assert 0 < low < high < 3600
    page.get_by_role("radio", name="Step", exact=True).click()
    assert page.evaluate("across.view") is None
    assert opened.complaints == []


def test_without_epochs_of_all_runs_there_is_no_switch_to_them(read_page: Open) -> None:
    page = read_page("compare-many").page
    assert page.get_by_role("radio", name="Epoch", exact=True).count() == 0


def test_each_metric_has_its_curves_and_the_table_of_where_runs_differ_most(
    open_page: Open,
) -> None:
    opened = open_page("compare-two")
    opened.scroll_through()
    tabs = opened.page.get_by_role("tab")
    assert tabs.all_inner_texts()[:2] == ["Gradient norm", "Update ratio"]
    seen = set()
    for tab in tabs.all():
        tab.click()
        seen.add(opened.pixels(DEPTH))
        title = tab.inner_text()
        shown = opened.page.locator(".differing:visible h3").all_inner_texts()
        assert shown in ([f"{title}: where runs differ most"], [])
    assert len(seen) == tabs.count()
    tabs.last.press("Home")
    assert tabs.first.get_attribute("aria-selected") == "true"


def test_a_layer_is_chosen_by_its_name_in_a_table_in_the_list_or_in_the_chart(
    open_page: Open,
) -> None:
    opened = open_page("compare-two")
    opened.scroll_through()
    page = opened.page
    chosen = "document.querySelector('#place').selectedOptions[0].textContent"
    first, second = page.locator(".differing button").all()[:2]
    assert page.evaluate(chosen) == first.inner_text()
    before = opened.pixels(PLACE)
    second.press("Enter")
    assert page.evaluate(chosen) == second.inner_text()
    assert opened.pixels(PLACE) != before
    page.locator("#place").select_option(label="model.head")
    page.get_by_role("button", name="Next layer").click()
    assert page.evaluate(chosen) == "model.encoder.embed"
    page.locator(DEPTH).scroll_into_view_if_needed()
    x, y = page.evaluate(
        """(() => { const { instance } = chartOf(document.querySelector("#metric-panel .chart"));
          const { data } = instance.getOption().series[0];
          return instance.convertToPixel({ seriesIndex: 0 }, [11, data[11]]); })()"""
    )
    page.locator(DEPTH).click(position={"x": x, "y": y})
    assert page.evaluate(chosen) == "model.head"
    assert "model.head" in str(page.locator(PLACE).get_attribute("aria-label"))


def test_a_comparison_without_scripts_has_verdicts_curves_and_tables(open_page: Open) -> None:
    page = open_page("compare-two", scripts=False).page
    assert page.locator("h1").is_visible()
    assert page.locator("#loss svg.losses").is_visible()
    assert page.locator("#validation svg.losses").is_visible()
    assert page.locator("#loss polyline").count() == 2
    assert page.locator(".differing:visible").count() >= 2
    assert page.locator("#numbers table").is_visible()
    for hidden in ("#controls", "#chart-loss", "#series"):
        assert not page.locator(hidden).is_visible()


def test_the_drawn_curves_give_way_to_charts(read_page: Open) -> None:
    page = read_page("compare-two").page
    assert page.locator("svg.losses:visible").count() == 0
    assert page.locator(LOSS).is_visible()


def test_names_of_runs_and_layers_stay_text_wherever_they_are_shown(open_page: Open) -> None:
    opened = open_page("compare-hostile")
    opened.scroll_through()
    page = opened.page
    tags = "[...document.querySelectorAll('img, script')].map((node) => node.tagName)"
    before = Counter(page.evaluate(tags))
    assert "<img src=x onerror" in hover(opened, LOSS, 400, 120)
    assert "<img src=x onerror" in hover(opened, DEPTH, 110, 100)
    page.get_by_role("button", name="Next layer").click()
    opened.settle()
    assert "<img src=x onerror" in str(page.locator(PLACE).get_attribute("aria-label"))
    assert Counter(page.evaluate(tags)) == before
    assert "IMG" not in before
    assert opened.complaints == []


def test_every_control_of_a_comparison_has_a_name(read_page: Open) -> None:
    nameless = read_page("compare-deep").page.evaluate(
        """[...document.querySelectorAll("button, input, select, a, summary")]
          .filter((n) => !(n.getAttribute("aria-label") || n.textContent.trim()))
          .map((n) => n.outerHTML)"""
    )
    assert nameless == []


def test_all_charts_of_a_comparison_are_printed_in_light_colours(open_page: Open) -> None:
    opened = open_page("compare-two", scheme="dark")
    page = opened.page
    charts = page.locator("main .chart").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wide = page.evaluate("[...document.querySelectorAll('img.paper')].map((n) => n.clientWidth)")
    assert len(wide) == charts
    assert min(wide) > 100
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("img.paper").count() == 0
    assert opened.complaints == []


def test_eight_runs_are_told_apart_by_colour_and_dash(read_page: Open) -> None:
    page = read_page("compare-many").page
    forms = page.evaluate(
        "[...document.querySelectorAll('#controls .stroke')].map((node) => node.className)"
    )
    assert len(forms) == 8
    assert len(set(forms)) == 8
