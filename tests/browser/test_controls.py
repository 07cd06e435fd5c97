"""In a browser, tabs, switches, keys and paper do what they say."""

from __future__ import annotations

import pytest

from browser.conftest import Open

HEAT = ".pane .chart"
PROFILE = "#map-panel > div > .chart"
LOSS = "#chart-loss .chart"


def test_each_metric_has_a_tab_that_shows_another_map(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    tabs = opened.page.get_by_role("tab")
    titles = tabs.all_inner_texts()
    assert titles[:2] == ["Gradient norm", "Update ratio"]
    seen = set()
    for i, title in enumerate(titles):
        tabs.nth(i).click()
        assert tabs.nth(i).get_attribute("aria-selected") == "true"
        assert opened.page.locator("[role=tab][aria-selected=true]").count() == 1
        panel = opened.page.get_by_role("tabpanel", name=title)
        assert panel.get_by_role("tree", name=f"{title}: layers").is_visible()
        seen.add(opened.pixels(HEAT))
    assert len(seen) == len(titles)
    assert opened.complaints == []


def test_the_log_switch_redraws_map_profile_and_loss(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    for switch, charts in (("#map-panel", (HEAT, PROFILE)), ("#chart-loss", (LOSS,))):
        before = [opened.pixels(chart) for chart in charts]
        button = opened.page.locator(switch).get_by_role("button", name="Logarithmic")
        pressed = button.get_attribute("aria-pressed")
        button.click()
        assert button.get_attribute("aria-pressed") != pressed
        assert all(a != opened.pixels(b) for a, b in zip(before, charts, strict=True))
        button.click()
        assert [opened.pixels(chart) for chart in charts] == before


def test_all_charts_change_to_epochs_and_to_time(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    seen = set()
    for name in ("Step", "Epoch", "Time"):
        opened.page.get_by_role("radio", name=name, exact=True).click()
        seen.add((opened.pixels(LOSS), opened.pixels(HEAT)))
    assert len(seen) == 3
    assert opened.page.evaluate("[500, 1000].map((step) => onAxis(step, 'seconds'))") == [450, 900]
    assert opened.page.evaluate("onAxis(500, 'epoch')") == pytest.approx(5, abs=0.2)


def test_without_epochs_and_times_there_is_no_switch_to_them(open_page: Open) -> None:
    page = open_page("healthy").page
    assert page.get_by_role("radio", name="Epoch").count() == 0


def test_dragging_across_a_chart_zooms_all_and_a_double_click_shows_all_again(
    open_page: Open,
) -> None:
    opened = open_page("sick")
    page = opened.page
    opened.scroll_through()
    before = opened.pixels(HEAT)
    box = page.locator(LOSS).bounding_box()
    assert box is not None
    page.locator(LOSS).scroll_into_view_if_needed()
    box = page.locator(LOSS).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 100, steps=4)
    page.mouse.up()
    low, high = page.evaluate("across.view")
    assert 150 < low < 300 < high < 500
    assert opened.pixels(HEAT) != before
    page.locator(LOSS).dblclick(position={"x": 300, "y": 100})
    assert page.evaluate("across.view") is None
    assert opened.pixels(HEAT) == before


def test_zooming_by_buttons_stays_within_the_run(open_page: Open) -> None:
    page = open_page("sick").page
    page.get_by_role("button", name="Zoom in").click()
    assert page.evaluate("across.view") == [250, 750]
    for _ in range(12):
        page.get_by_role("button", name="Zoom in").click()
    low, high = page.evaluate("across.view")
    assert high - low >= 4
    for _ in range(12):
        page.get_by_role("button", name="Zoom out").click()
    assert page.evaluate("across.view") is None


def test_the_slider_moves_numbers_and_profile_to_another_step(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    page = opened.page
    value = page.locator(".row .value").last
    before, drawn = value.inner_text(), opened.pixels(PROFILE)
    slider = page.get_by_role("slider", name="Step that numbers and profile are of")
    slider.focus()
    page.keyboard.press("Home")
    assert "step 0" in str(slider.get_attribute("aria-valuetext"))
    assert value.inner_text() != before
    assert opened.pixels(PROFILE) != drawn


def test_layers_fold_and_are_found_by_name(open_page: Open) -> None:
    page = open_page("deep").page
    rows = page.locator(".row")
    assert 60 < rows.count() < 150
    assert page.evaluate("run.layers.length") > 300
    page.get_by_role("button", name="Close all").click()
    assert rows.count() < 5
    page.get_by_role("button", name="Open all").click()
    assert rows.count() > 300
    page.get_by_role("searchbox", name="Filter layers by name").fill("blocks.41.attention.k")
    assert rows.last.get_attribute("data-path") == "model.encoder.blocks.41.attention.key"
    assert rows.count() < 8
    page.get_by_role("searchbox", name="Filter layers by name").fill("no such layer")
    assert page.get_by_text("No layer has this in its name.").is_visible()
    page.get_by_role("searchbox", name="Filter layers by name").fill("")
    page.get_by_role("button", name="Only what findings name").click()
    assert 3 < rows.count() < 15


def test_a_long_tree_scrolls_with_its_map(open_page: Open) -> None:
    opened = open_page("deep")
    opened.scroll_through()
    opened.page.get_by_role("button", name="Open all").click()
    before = opened.pixels(HEAT)
    opened.page.locator(".layers-scroll").evaluate("(node) => node.scrollTo(0, 3000)")
    opened.settle()
    assert opened.pixels(HEAT) != before


def test_tabs_and_tree_work_by_keyboard_alone(open_page: Open) -> None:
    opened = open_page("sick")
    page = opened.page
    page.get_by_role("tab", name="Gradient norm").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "Update ratio"
    assert page.get_by_role("tab", name="Update ratio").get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    assert page.locator("[role=tab][tabindex='0']").count() == 1
    assert page.locator(".row[tabindex='0']").count() == 1
    page.locator(".row[tabindex='0']").focus()
    rows = page.locator(".row").count()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".row").count() < rows
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"
    page.keyboard.press("ArrowRight")
    assert page.locator(".row").count() == rows
    page.keyboard.press("End")
    path = page.evaluate("document.activeElement.dataset.path")
    assert path == "model.head"
    page.keyboard.press("Enter")
    assert page.locator("dialog h2").inner_text() == "model.head"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate("document.activeElement.dataset.path") == "model.head"
    assert opened.complaints == []


def test_focus_can_be_seen(open_page: Open) -> None:
    page = open_page("sick").page
    page.keyboard.press("Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"


def test_a_layers_page_shows_all_that_is_known_of_it(open_page: Open) -> None:
    opened = open_page("sick")
    page = opened.page
    page.locator("[data-path='model.encoder.embed'] .name").click()
    dialog = page.get_by_role("dialog")
    titles = dialog.locator("figcaption b").all_inner_texts()
    assert titles[:2] == ["Gradient norm", "Update ratio"]
    assert "Histogram of the activation" in titles
    assert "vanishing-gradient" in dialog.locator("dl").inner_text()
    for chart in dialog.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        opened.settle()
        assert chart.locator("canvas").count() >= 1
    dialog.get_by_role("button", name="Next layer").click()
    assert dialog.locator("h2").inner_text() != "model.encoder.embed"
    dialog.get_by_role("button", name="Close").click()
    opened.settle()  # a dialog tells that it was closed in a task of its own
    assert page.evaluate("dialogCharts.length") == 0
    assert opened.complaints == []


def test_a_click_on_a_cell_opens_the_layer_of_its_row(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    chart = opened.page.locator(HEAT)
    row = opened.page.locator(".row").nth(2)
    chart.click(position={"x": 200, "y": 50})
    assert opened.page.locator("dialog h2").inner_text() == row.get_attribute("data-path")


def test_a_mark_of_a_finding_leads_to_it_and_opens_it(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    page = opened.page
    assert page.locator("#finding-2").get_attribute("open") is None
    page.locator(LOSS).scroll_into_view_if_needed()
    x = page.evaluate(
        "chartOf(document.querySelector('#chart-loss .chart')).instance"
        ".convertToPixel({ xAxisIndex: 0 }, run.findings[1].steps[0])"
    )
    page.locator(LOSS).click(position={"x": x, "y": 16})
    assert page.evaluate("location.hash") == "#finding-2"
    assert page.locator("#finding-2").get_attribute("open") is not None


def test_lines_are_hidden_and_shown_by_their_legend(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    before = opened.pixels(LOSS)
    button = opened.page.locator("#chart-loss").get_by_role("button", name="val_loss")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert opened.pixels(LOSS) != before
    assert "val_loss" not in str(opened.page.locator(LOSS).get_attribute("aria-label"))


def test_histograms_are_drawn_as_ridges_too(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    chart = "#chart-distributions .chart"
    before = opened.pixels(chart)
    opened.page.get_by_role("radio", name="Ridges").click()
    assert opened.pixels(chart) != before
    opened.page.get_by_role("button", name="Next place").click()
    assert "blocks.0.attention.query" in str(opened.page.locator(chart).get_attribute("aria-label"))


def test_the_reader_can_choose_light_or_dark(open_page: Open) -> None:
    opened = open_page("sick", scheme="dark")
    page = opened.page
    opened.scroll_through()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 23, 28)"
    before = opened.pixels(LOSS)
    page.get_by_role("radio", name="Light").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert opened.pixels(LOSS) != before


def test_code_of_the_remedy_is_copied(open_page: Open) -> None:
    page = open_page("sick").page
    button = page.get_by_role("button", name="Copy Trainer(gradient_clip_val=1.0)")
    button.first.click()
    page.get_by_text("Copied").wait_for()
    field = page.get_by_role("searchbox", name="Filter layers by name")
    field.focus()
    page.keyboard.press("Control+V")
    assert field.input_value() == "Trainer(gradient_clip_val=1.0)"


def test_a_curve_is_made_larger_and_small_again(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    card = opened.page.locator("#series .card").nth(1)
    button = card.get_by_role("button", name="Larger")
    small = card.locator(".chart").bounding_box()
    button.click()
    opened.settle()
    large = card.locator(".chart").bounding_box()
    assert small is not None
    assert large is not None
    assert large["height"] == 340 > small["height"]
    assert large["width"] > 2 * small["width"]
    canvas = card.locator("canvas").first.bounding_box()
    assert canvas is not None
    assert canvas["width"] == pytest.approx(large["width"], abs=1)
    button.press("Enter")
    opened.settle()
    assert card.locator(".chart").bounding_box()["height"] == small["height"]  # type: ignore[index]


def test_curves_are_found_by_name(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    field = opened.page.get_by_role("searchbox", name="Filter curves by name")
    field.fill("NOISE")
    titles = opened.page.locator("#series .card:visible b").all_inner_texts()
    assert titles == ["Gradient noise scale"]
    field.fill("")
    assert opened.page.locator("#series .card:visible").count() > 4


def test_what_watching_cost_is_folded_apart_from_what_was_watched(open_page: Open) -> None:
    opened = open_page("sick")
    opened.scroll_through()
    cost = opened.page.locator("#series details")
    assert not cost.locator(".card").first.is_visible()
    cost.locator("summary").click()
    opened.settle()
    assert cost.locator("b").all_inner_texts() == ["Cost of watching"]
    assert cost.locator("canvas").count() == 1


def test_dragging_along_the_depth_zooms_to_layers(open_page: Open) -> None:
    opened = open_page("deep")
    opened.scroll_through()
    chart = opened.page.locator(PROFILE)
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    opened.page.mouse.move(box["x"] + 300, box["y"] + 80)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 400, box["y"] + 80, steps=4)
    opened.page.mouse.up()
    opened.settle()
    shown = "chartOf(document.querySelector('#map-panel > div > .chart')).instance.getOption()"
    names = opened.page.evaluate(f"{shown}.xAxis[0].data")
    assert 10 < len(names) < 60
    assert opened.page.locator("dialog").count() == 0
    opened.page.get_by_role("button", name="All layers").click()
    assert len(opened.page.evaluate(f"{shown}.xAxis[0].data")) == 302
