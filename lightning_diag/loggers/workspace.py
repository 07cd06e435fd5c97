"""The saved workspace of a W&B project: the sections of a run's page, laid out once for all runs.

Without it, W&B lays the panels out by itself, in sections of the same names.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from typing import Any, NamedTuple

from lightning_diag.loggers.maps import KINDS
from lightning_diag.loggers.names import SECTIONS, in_section
from lightning_diag.loggers.wandb import MAP_TABLE, STEP

NAME = "lightning_diag"
CHART = "lightning-diag-heat-map"
_MISSING = (
    "The workspace is built with wandb-workspaces, which is not installed: run "
    "`pip install 'lightning-diag[workspace]'`."
)

_LINES: tuple[tuple[str, str, bool], ...] = (
    ("loss/train", "Training loss", True),
    ("loss/noise", "Noise of the loss", True),
    ("loss/spike_count", "Loss spikes", False),
    ("output/accuracy_min", "Accuracy in training", False),
    ("overhead/fraction", "Cost of watching, share of the time", False),
    ("gradient/total_norm", "Gradient norm", True),
    ("gradient/depth_ratio", "Gradient of the first layer over the last", True),
    ("gradient/clipped_fraction", "Share of steps clipped", False),
    ("gradient/nonfinite_count", "Gradients that are NaN or infinite", False),
    ("activation/saturated_fraction_max", "Saturation, worst layer", False),
    ("activation/variance_gain_max", "Variance gain, largest", True),
    ("activation/variance_gain_min", "Variance gain, smallest", True),
    ("activation/nonfinite_count", "Activations that are NaN or infinite", False),
    ("dead_relu/fraction_max", "Dead units, worst layer", False),
    ("dead_relu/fraction_mean", "Dead units, mean", False),
    ("update/ratio_median", "Update ratio, median (about 1e-3 is usual)", True),
    ("update/ratio_max", "Update ratio, largest", True),
    ("update/ratio_min", "Update ratio, smallest", True),
    ("lr/value", "Learning rate", False),
    ("data/wait_fraction", "Share of the time spent waiting for data", False),
)
"""Metric, title, and whether its axis is logarithmic."""

_MEDIA = {
    "Overview": ["Overview/report", "Overview/first_layer_filters"],
    "Activations": [
        in_section("activation/histogram_first"),
        in_section("activation/histogram_last"),
    ],
}
_TABLES = {
    "Overview": ["Overview/layers"],
    "Data": ["Data/worst_examples"],
    "Findings": ["Findings/findings"],
}


class Sent(NamedTuple):
    """What became of a workspace."""

    spec: dict[str, Any]
    """What W&B was sent, or would have been."""
    url: str | None
    """Where to see it; None if it was not sent."""
    chart: str
    """Why heat maps may be missing in it; empty if they are not."""


def workspace(entity: str, project: str, *, send: bool | None = None) -> Sent:
    """Build the saved workspace of a project, and save it.

    Args:
        entity: The user or team in W&B that the project belongs to.
        project: The project.
        send: Whether to save it; None does so unless W&B is offline or switched off
            (``WANDB_MODE``).

    Raises:
        ImportError: If wandb-workspaces is missing; the message says how to get it.
        ValueError: If a name is empty.
    """
    for name, value in (("entity", entity), ("project", project)):
        if not value.strip():
            raise ValueError(f"`{name}` must name one of W&B's, got {value!r}.")
    built = _built(entity, project)
    view = built._to_model()
    spec = {
        "custom_chart": {"name": f"{entity}/{CHART}", "spec": heat_map()},
        "view": json.loads(view.model_dump_json(by_alias=True)),
    }
    if send is None:
        send = os.environ.get("WANDB_MODE", "online") not in ("offline", "disabled", "dryrun")
    if not send:
        return Sent(spec, None, "")
    chart = _chart_made(entity)
    built.save()
    return Sent(spec, str(built.url), chart)


def _chart_made(entity: str) -> str:
    """Save the heat map as a chart of the entity; return what went wrong, if anything did."""
    import wandb  # noqa: PLC0415

    create = getattr(wandb.Api(), "create_custom_chart", None)
    if create is None:
        return "this version of wandb cannot save charts: upgrade it"
    try:
        create(
            entity=entity,
            name=CHART,
            display_name="Layers by step",
            spec_type="vega2",
            access="private",
            spec=heat_map(),
        )
    except Exception as error:  # noqa: BLE001  # the workspace is worth saving without it, too
        return f"the chart was not saved ({error}); if it is there already, all is well"
    return ""


def _built(entity: str, project: str) -> Any:
    try:
        with warnings.catch_warnings():  # its own, about its own use of pydantic
            warnings.simplefilter("ignore", DeprecationWarning)
            wr = importlib.import_module("wandb_workspaces.reports.v2")
            ws = importlib.import_module("wandb_workspaces.workspaces")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("wandb"):
            raise
        raise ImportError(_MISSING) from error
    sections = [
        ws.Section(
            name=section,
            panels=_panels(wr, entity, section),
            is_open=section in ("Overview", "Findings"),
            layout_settings=ws.SectionLayoutSettings(columns=2, rows=3),
        )
        for section in SECTIONS
    ]
    settings = ws.WorkspaceSettings(x_axis=STEP, group_by_prefix="first")
    return ws.Workspace(
        entity=entity, project=project, name=NAME, sections=sections, settings=settings
    )


def _panels(wr: Any, entity: str, section: str) -> list[Any]:
    """Return the panels of a section: lines, heat maps, pictures, tables."""
    panels: list[Any] = [
        wr.LinePlot(title=title, x=STEP, y=[in_section(metric)], log_y=log, title_x="step")
        for metric, title, log in _LINES
        if in_section(metric).startswith(f"{section}/")
    ]
    for kind in KINDS:
        if in_section(kind.name).startswith(f"{section}/"):
            panels.append(
                wr.CustomChart(
                    query={"summaryTable": {"tableKey": MAP_TABLE}},
                    chart_name=f"{entity}/{CHART}",
                    chart_fields={name: name for name in ("metric", "place", "step", "value")},
                    chart_strings={
                        "metric": kind.metric,
                        "title": kind.title,
                        "scale": "log" if kind.log else "linear",
                    },
                )
            )
            panels.append(wr.MediaBrowser(title=kind.title, media_keys=[in_section(kind.name)]))
    panels += [wr.MediaBrowser(media_keys=[key]) for key in _MEDIA.get(section, ())]
    panels += [wr.WeavePanelSummaryTable(table_name=key) for key in _TABLES.get(section, ())]
    return panels


def heat_map() -> dict[str, Any]:
    """Return the heat map as a chart of Vega-Lite over the table of all layers by step."""
    field = {name: f"${{field:{name}}}" for name in ("metric", "place", "step", "value")}
    # Strings of the panel are put in as text: a scale's type in an expression follows it.
    shade = (
        f"'${{string:scale}}' == 'log' ? (datum['{field['value']}'] > 0 ? "
        f"log(datum['{field['value']}']) / LN10 : null) : datum['{field['value']}']"
    )
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": "${string:title}",
        "data": {"name": "wandb"},
        "transform": [
            {"filter": f"datum['{field['metric']}'] == '${{string:metric}}'"},
            {"calculate": shade, "as": "shade"},
        ],
        "mark": "rect",
        "encoding": {
            "x": {"field": field["step"], "type": "ordinal", "title": "step"},
            "y": {"field": field["place"], "type": "nominal", "sort": None, "title": None},
            "color": {
                "field": "shade",
                "type": "quantitative",
                "scale": {"scheme": "viridis"},
                "title": "${string:scale}",
            },
            "tooltip": [
                {"field": field["place"], "type": "nominal", "title": "place"},
                {"field": field["step"], "type": "quantitative", "title": "step"},
                {"field": field["value"], "type": "quantitative", "title": "value"},
            ],
        },
    }
