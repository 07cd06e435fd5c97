"""TensorBoard, MLflow and Comet have what they can show, read back with their own readers."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger

from lightning_diag.loggers.names import MOST_SCALARS
from lightning_diag.report.verdict import judge
from loggers.fits import STEPS, doctor, fit


def test_tensorboard_has_scalars_histograms_tables_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger, watched = TensorBoardLogger(tmp_path), doctor()
    fit(watched, logger=logger)
    board = EventAccumulator(logger.log_dir, {"scalars": 0, "tensors": 0, "images": 0})
    board.Reload()
    tags = board.Tags()
    ours = [name for name in tags["scalars"] if name.startswith("diag/")]
    assert 10 < len(ours) <= MOST_SCALARS
    norms = board.Scalars("diag/gradient/total_norm")
    assert [event.step for event in norms] == list(range(STEPS))
    known = watched.history.series("gradient/total_norm").values
    assert [event.value for event in norms] == pytest.approx(list(known), rel=1e-5)
    assert {"diag/gradient/by_layer", "diag/update/by_weight"} <= set(tags["images"])
    assert "diag/activation/histogram_first" in tags["histograms"]
    texts = {name: _text(board, name) for name in tags["tensors"]}
    assert texts["diag/verdict/text_summary"] == judge(watched.findings, watched.history).sentence
    assert "net.first.weight" in texts["diag/layers/text_summary"]
    assert "learning-rate-too-high" in texts["diag/findings/text_summary"]
    assert "prediction" in texts["diag/worst_examples/text_summary"]
    assert "report.html" in texts["diag/report/text_summary"]


def _text(board: Any, name: str) -> str:
    found: bytes = board.Tensors(name)[-1].tensor_proto.string_val[0]
    return found.decode()


@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="mlflow is not installed")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_has_scalars_a_verdict_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger, watched = MLFlowLogger(save_dir=str(tmp_path / "mlruns")), doctor()
    fit(watched, logger=logger)
    client, run = logger.experiment, logger.run_id
    assert run is not None
    steps = [m.step for m in client.get_metric_history(run, "diag/gradient/total_norm")]
    assert steps == list(range(STEPS))
    sentence = judge(watched.findings, watched.history).sentence
    assert client.get_run(run).data.tags["diag.verdict"] == sentence
    names = {Path(item.path).name for item in client.list_artifacts(run, "diag")}
    files = {"layers.md", "findings.md", "worst_examples.md", "report.html"}
    assert {*files, "gradient_by_layer.png"} <= names


_COMET = """
import os, warnings
warnings.simplefilter("ignore")
import comet_ml
from pytorch_lightning.loggers import CometLogger
from loggers.fits import fit
logger = CometLogger(api_key="x" * 32, online=False, offline_directory=".")
logger._experiment = comet_ml.OfflineExperiment(offline_directory=".")
fit(logger=logger)
logger.experiment.end()
"""


@pytest.mark.skipif(not importlib.util.find_spec("comet_ml"), reason="comet_ml is not installed")
def test_comet_has_scalars_histograms_tables_and_the_page(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    tests = Path(__file__).resolve().parent.parent
    run_python(f"import sys; sys.path.insert(0, {str(tests)!r})\n{_COMET}")
    (archive,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as file:
        messages = [json.loads(line)["payload"] for line in file.read("messages.json").splitlines()]
    scalars = [
        message["metric"]["metricValue"]
        for message in messages
        if message.get("metric", {}).get("metricName") == "diag/gradient/total_norm"
    ]
    assert len(scalars) == STEPS
    text = json.dumps(messages)
    for part in ("diag/verdict", "diag_layers.csv", "diag_findings.csv", "diag/report.html"):
        assert part in text
    for part in ("diag/activation/histogram_first", "diag/gradient/by_layer"):
        assert part in text
