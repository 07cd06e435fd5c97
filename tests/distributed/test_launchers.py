"""However the processes come about, the history is that of one process (P6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.compare import differences
from distributed.launch import logs, once, run_modules
from distributed.script import STEPS
from distributed.training import records
from lightning_diag import History

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the histories, one below the name of each strategy."""

    def start(folder: Path) -> None:
        launches = [("auto", "1"), ("ddp", "2"), ("ddp_spawn", "2"), ("ddp_fork,ddp_notebook", "2")]
        run_modules(
            [
                ("distributed.script", (str(folder), strategy, devices, "1"), {})
                for strategy, devices in launches
            ],
            folder,
        )

    return once("launchers", tmp_path_factory, start)


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_each_way_to_start_two_processes_gives_the_history_of_one(
    folder: Path, strategy: str
) -> None:
    found = list((folder / strategy).rglob("history*.jsonl"))
    assert found == [folder / strategy / "lightning_diag" / "history.jsonl"], logs(folder)
    assert (folder / strategy / "lightning_diag" / "report.html").exists()
    together, alone = History.open(found[0]), History.open(folder / "auto")
    assert together.meta["trainer"]["world_size"] == 2
    assert together.steps == list(range(STEPS))
    different = differences(records(together), records(alone), rtol=1e-5)
    assert not different, different[:20]
