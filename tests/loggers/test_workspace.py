"""The saved workspace: what W&B would be sent, and that it arrives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lightning_diag.loggers.maps import KINDS
from lightning_diag.loggers.names import SECTIONS, in_section
from lightning_diag.loggers.wandb import MAP_TABLE, STEP
from lightning_diag.loggers.workspace import CHART, heat_map, workspace
from loggers.stub import Server, environment, serving

pytest.importorskip("wandb_workspaces")


def panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the panels of a workspace by section."""
    view: Any = spec["view"]["spec"]
    if isinstance(view, str):
        view = json.loads(view)
    bank = view["section"]["panelBankConfig"]
    return {section["name"]: section["panels"] for section in bank["sections"]}


def charts(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the settings of all panels of a kind."""
    found = [panel for group in panels(spec).values() for panel in group]
    return [panel["config"] for panel in found if panel["viewType"] == kind]


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return workspace("team", "digits", send=False).spec


def test_the_sections_are_those_of_the_scalars(spec: dict[str, Any]) -> None:
    found = panels(spec)
    assert [name for name in found if name in SECTIONS] == list(SECTIONS)
    assert all(found[section] for section in SECTIONS)


def test_every_line_has_the_trainers_step_on_its_x_axis(spec: dict[str, Any]) -> None:
    lines = charts(spec, "Run History Line Plot")
    assert len(lines) == 20
    assert {line["xAxis"] for line in lines} == {STEP}


def test_every_heat_map_is_a_chart_over_the_table_of_layers(spec: dict[str, Any]) -> None:
    found = charts(spec, "Vega2")
    assert {chart["stringSettings"]["metric"] for chart in found} == {k.metric for k in KINDS}
    assert {chart["panelDefId"] for chart in found} == {f"team/{CHART}"}
    assert all(MAP_TABLE in json.dumps(chart) for chart in found)


def test_the_chart_asks_for_what_the_panels_give(spec: dict[str, Any]) -> None:
    text = json.dumps(heat_map())
    chart = charts(spec, "Vega2")[0]
    for kind in ("field", "string"):
        for name in chart[f"{kind}Settings"]:
            assert f"${{{kind}:{name}}}" in text


def test_every_key_is_one_that_runs_log(spec: dict[str, Any]) -> None:
    """Each stands in a section, with one slash."""
    text = json.dumps(spec["view"])
    assert in_section("gradient/total_norm") in text
    assert in_section(KINDS[0].name) in text


def test_offline_it_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert workspace("team", "digits").url is None


@pytest.mark.parametrize("names", [("", "p"), ("e", " ")])
def test_a_name_that_is_missing_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must name one of W&B's"):
        workspace(*names, send=False)


def test_without_the_package_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "wandb_workspaces"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-diag\[workspace\]'"):
        workspace("team", "digits", send=False)


_SEND = """
import warnings
from lightning_diag.loggers.workspace import workspace
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of wandb's own
    sent = workspace("team", "digits")
print(sent.url, sent.chart or "no trouble")
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        for name, value in environment(server).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.multiprocess
def test_it_arrives_with_its_chart(server: Server, run_python: Callable[..., str]) -> None:
    told = run_python(_SEND).splitlines()[-1]
    assert told.startswith(f"{server.url}/team/digits")
    assert told.endswith("no trouble")
    (view,) = server.variables("UpsertView2")
    (chart,) = server.variables("CreateCustomChart")
    assert (view["entityName"], view["projectName"]) == ("team", "digits")
    assert "Dead units" in view["spec"]
    assert json.loads(chart["spec"]) == heat_map()
    assert server.unknown == []


@pytest.mark.multiprocess
def test_a_chart_that_is_refused_leaves_the_workspace(
    server: Server, run_python: Callable[..., str]
) -> None:
    server.refused.add("CreateCustomChart")
    told = run_python(_SEND).splitlines()[-1]
    assert told.endswith("if it is there already, all is well")
    assert len(server.variables("UpsertView2")) == 1
