"""What freezing saves: step time and memory against training all layers, and against Lightning's.

Each way trains the same network on the same batches, in turns, in one process; times are CPU time,
so that others on the machine matter little. Memory is counted, not sampled: bytes that autograd
keeps for the backward pass, of gradients, and of the optimizer's state.

Besides: what it takes to wrap a module in DDP anew, which `LayerFreezing` does at each stage, and
what the other way of keeping ranks equal costs at each step: all parameters registered from the
start, and unused ones looked for.

    python benchmarks/freezing.py [--rounds 7] [--steps 12] [--json file]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import LayerFreezing

BATCH = 16


class Residual(nn.Module):
    """Two convolutions, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.short(x))


def resnet() -> nn.Module:
    """Eight blocks in four stages, a quarter as wide as ResNet-18."""
    widths = [16, 16, 32, 64, 128]
    stages = [
        nn.Sequential(Residual(a, b, 1 + (i > 0)), Residual(b, b, 1))
        for i, (a, b) in enumerate(pairwise(widths))
    ]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def transformer() -> nn.Module:
    """Four layers of width 128 on 48 tokens."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return nn.Sequential(nn.Flatten(2), nn.Linear(1024, 128), encoder, Mean())


class Mean(nn.Module):
    """Averages over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, width)``."""
        return x.repeat(1, 16, 1).mean(1)


class Learner(pl.LightningModule):
    """Cross-entropy on a backbone and a head."""

    def __init__(self, backbone: nn.Module, *, only_trainable: bool) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(128, 10)
        self.only_trainable = only_trainable
        self.kept = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss; on one batch, count what autograd keeps."""
        x, y = batch
        if batch_idx != 1:
            return functional.cross_entropy(self.head(self.backbone(x)), y)
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = functional.cross_entropy(self.head(self.backbone(x)), y)
        self.kept = sum(seen.values())
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW; Lightning's own callback wants what is frozen left out."""
        chosen = [p for p in self.parameters() if p.requires_grad or not self.only_trainable]
        return torch.optim.AdamW(chosen, lr=1e-4)


class Watch(pl.Callback):
    """Times batches after the first three, and counts bytes at the end."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.bytes: dict[str, int] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self.last = time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Note the time since the last batch; loading and hooks count."""
        now = time.process_time()
        if rest[-1] > 2:
            self.times.append(now - self.last)
        self.last = now

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Count bytes."""
        state = trainer.optimizers[0].state.values()
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.bytes = {
            "activations": pl_module.kept,
            "gradients": sum(g.nbytes for g in gradients),
            "state": sum(v.nbytes for s in state for v in s.values() if isinstance(v, Tensor)),
        }


WAYS: dict[str, Callable[[], list[Any]]] = {
    "all layers": list,
    "LayerFreezing, head": lambda: [LayerFreezing({0: "head"}, verbose=False)],
    "LayerFreezing, head and last stage": lambda: [LayerFreezing({0: "last 2"}, verbose=False)],
    "BackboneFinetuning": lambda: [BackboneFinetuning(99)],
    "BackboneFinetuning(train_bn=False)": lambda: [BackboneFinetuning(99, train_bn=False)],
}


def fit(backbone: Callable[[], nn.Module], way: str, steps: int) -> Watch:
    """Train for some steps."""
    torch.manual_seed(0)
    module = Learner(backbone(), only_trainable="Backbone" in way)
    x = torch.randn(steps * BATCH, 3, 32, 32)
    loader = DataLoader(TensorDataset(x, torch.randint(0, 10, (len(x),))), BATCH)
    watch = Watch()
    pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[*WAYS[way](), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader)
    return watch


def compare(backbone: Callable[[], nn.Module], rounds: int, steps: int) -> dict[str, Any]:
    """Return medians over rounds of each way, and ratios within a round to training all layers."""
    watches: dict[str, list[Watch]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            watches[way].append(fit(backbone, way, steps))
    bare = [median(watch.times) for watch in watches["all layers"]]
    whole = sum(watches["all layers"][0].bytes.values())
    return {
        way: {
            "milliseconds": 1000 * median(median(watch.times) for watch in each),
            "time": median(median(w.times) / b for w, b in zip(each, bare, strict=True)),
            "memory": sum(each[0].bytes.values()) / whole,
            **each[0].bytes,
        }
        for way, each in watches.items()
    }


def wrapping(rounds: int) -> dict[str, float]:
    """Time DDP in one process: a new wrapper, and a step with and without unused parameters."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/x", rank=0, world_size=1)
        module = Learner(resnet(), only_trainable=False)
        x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
        network = nn.Sequential(module.backbone, module.head)

        def step(wrapper: nn.Module) -> float:
            begin = time.process_time()
            functional.cross_entropy(wrapper(x), y).backward()
            return time.process_time() - begin

        wraps, registered, exact = [], [], []
        found: dict[str, float] = {}
        for _ in range(rounds):
            network.requires_grad_(True)  # noqa: FBT003
            every = DistributedDataParallel(network, find_unused_parameters=True)
            module.backbone.requires_grad_(False)  # noqa: FBT003
            registered.append(median(step(every) for _ in range(6)))
            found["registered_bytes"] = every._get_ddp_logging_data()["total_parameter_size_bytes"]
            every._remove_autograd_hooks()
            del every
            begin = time.process_time()
            trained = DistributedDataParallel(network)
            wraps.append(time.process_time() - begin)
            exact.append(median(step(trained) for _ in range(6)))
            found["wrapped_bytes"] = trained._get_ddp_logging_data()["total_parameter_size_bytes"]
            trained._remove_autograd_hooks()
            del trained
        dist.destroy_process_group()
    ratio = median(a / b for a, b in zip(registered, exact, strict=True))
    return {**found, "wrap_milliseconds": 1000 * median(wraps), "unused_step_ratio": ratio}


def main() -> None:
    """Measure, and print as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for make in (resnet, transformer):
        found = compare(make, chosen.rounds, chosen.steps)
        results[make.__name__] = found
        print(f"\n| {make.__name__} | ms a step | time | memory |\n|---|---|---|---|")
        for way, row in found.items():
            print(
                f"| {way} | {row['milliseconds']:.1f} | {row['time']:.2f} | {row['memory']:.3f} |"
            )
    results["ddp"] = wrapping(chosen.rounds)
    print("\n" + "\n".join(f"{name}: {value:.4g}" for name, value in results["ddp"].items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
