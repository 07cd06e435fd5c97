"""Findings in a real terminal, beside the progress bars of both Lightnings, and in a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import warm

import lightning_diag

pytest.importorskip("pty", reason="there are pseudo-terminals on Unix only")

from pseudo_terminal import seen, written

HOME = Path(lightning_diag.__file__).resolve().parent.parent
SCRIPT = '''
import importlib, logging, sys, warnings
warnings.simplefilter("ignore")
space, bar, metric = sys.argv[1:]
lightning = importlib.import_module(space)
callbacks = importlib.import_module(space + ".callbacks")
logging.getLogger(space).setLevel(logging.ERROR)
import torch
from dataclasses import dataclass
from torch.utils.data import DataLoader, TensorDataset
from lightning_diag import Doctor
from lightning_diag.finding import Evidence, Finding
from lightning_diag.rules.base import Rule

MESSAGE = "Of all the batches that were seen this one was by far the most remarkable. " * 3

@dataclass(frozen=True)
class Remarkable(Rule):
    """Something is found as soon as a number is there."""
    code = "remarkable-batch"
    needs = (metric,)
    def judge(self, history):
        last = history.steps[-1]
        return [Finding(self.code, "bad", MESSAGE, "Look at `it`.", ("net",), (5, last),
                        Evidence(1.0, 0.5, 1, 1))] if last >= 5 else []

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
    def loss(self, batch):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), prog_bar=True)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

torch.manual_seed(0)
x = torch.randn(96, 4)
data = TensorDataset(x, (x[:, 0] > 0).long())
Bar = {"tqdm": callbacks.TQDMProgressBar, "rich": callbacks.RichProgressBar}[bar]
lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_model_summary=False, log_every_n_steps=1, num_sanity_val_steps=0,
    callbacks=[Doctor(preflight="off", rules=[Remarkable()], dirpath="out"), Bar(refresh_rate=1)],
).fit(Model(), DataLoader(data, 8), DataLoader(data, 8))
'''
FINDING = [
    "✖ BAD  remarkable-batch  since step 5",
    "  Of all the batches that were seen this one was by far the most remarkable. Of",
    "  all the batches that were seen this one was by far the most remarkable. Of all",
    "  the batches that were seen this one was by far the most remarkable.",
    "  Where         net",
    "  Do            Look at `it`.",
]
BARS = {
    "tqdm": re.compile(r"Epoch 1: 100%\|.*\| 12/12 \[\d\d:\d\d<\d\d:\d\d, .*it/s.*"),
    "rich": re.compile(r"Epoch 1/1 +━+ 12/12 \d:\d\d:\d\d • \d:\d\d:\d\d [\d.]+it/s.*"),
}


def places_of(block: list[str], lines: list[str]) -> list[int]:
    """Return where a block of lines stands among others."""
    return [i for i in range(len(lines)) if lines[i : i + len(block)] == block]


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return str(path)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("space", "bar", "metric"),
    [
        ("pytorch_lightning", "tqdm", "loss/train"),
        ("lightning.pytorch", "tqdm", "validation/val_loss"),
        ("lightning.pytorch", "rich", "loss/train"),
        ("pytorch_lightning", "rich", "validation/val_loss"),
    ],
)
def test_a_finding_is_printed_once_and_whole_above_a_bar_that_stays_whole(
    script: str, space: str, bar: str, metric: str
) -> None:
    env = {"PYTHONPATH": str(HOME)}
    text = written(script, space, bar, metric, env=env)
    lines = seen(text)
    where = places_of(FINDING, lines)
    assert len(where) == 1, "\n".join(lines)
    assert [line for line in lines if "since step 5" in line] == [
        FINDING[0],
        "✖ Training is broken: remarkable-batch since step 5.",
    ]
    bars = [line for line in lines if re.search(r"Epoch|it/s|━|\|", line)]
    assert len(bars) == 1, "\n".join(lines)
    assert BARS[bar].fullmatch(bars[0]), bars[0]
    drawn_before = re.split("remarkable-batch", text, maxsplit=1)[0]
    assert "it/s" in drawn_before


@pytest.mark.timeout(200)
def test_in_a_file_there_are_lines_and_nothing_else(script: str) -> None:
    log = Path("train.log")
    words = [script, "pytorch_lightning", "tqdm", "loss/train"]
    own = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    command = warm.Command(words, str(Path.cwd()), own, str(log), str(log), strict=False)
    assert warm.run_all([command], 100.0) == [0]
    text = log.read_text(encoding="utf-8")
    assert "\x1b[" not in text.replace("\x1b[A", "")  # tqdm's own, between its bars
    assert len(places_of(FINDING, text.split("\n"))) == 1
    ours = text[text.index("\n" + FINDING[0]) :].split("\nEpoch")[0]
    assert "\r" not in ours.split(FINDING[-1])[0]


def test_the_terminal_of_the_tests_shows_what_was_written_last() -> None:
    assert seen("bar 10%\rbar 20%\n") == ["bar 20%", ""]
    assert seen("one\r\ntwo\r\x1b[2K\x1b[1A\x1b[2Kthree") == ["three", ""]
    assert seen("one\r\ntwo\x1b[A!") == ["one!", "two"]
    assert seen("12345678", columns=5) == ["12345", "678"]
    assert seen("\x1b[1;31mred\x1b[0m") == ["red"]
