"""Scenarios: layers that thaw on two ranks, by this package and by Lightning's own callback."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from transfer.freezes import Transfer, adamw, data, kept, sgd, trainer

from distributed.training import Seat
from lightning_diag import LayerFreezing

SCHEDULE: Any = {0: "head", 1: "high", 2: ["low", "stem"]}
WRAPPERS: dict[str, dict[str, Any]] = {
    "plain": {"find_unused_parameters": False},
    "find_unused": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
    "bucket_view": {"gradient_as_bucket_view": True},
}
CASES = [
    (name, accumulation)
    for name in WRAPPERS
    for accumulation in (1, 2)
    # torch itself fails there, with nothing frozen: the first backward must be reduced.
    if (name, accumulation) != ("static_graph", 2)
]
EPOCHS = 4


class Apart(pl.Callback):
    """Keeps how far the weights of the ranks are apart, and what requires a gradient."""

    def __init__(self) -> None:
        self.apart: list[dict[str, float]] = []
        self.trainable: list[int] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Compare each tensor of the module, and each of the optimizers' states."""
        found = {}
        for name, tensor in _tensors(trainer, pl_module):
            each = [torch.empty_like(tensor, dtype=torch.float64) for _ in range(2)]
            dist.all_gather(each, tensor.detach().double().contiguous())
            found[name] = float((each[0] - each[1]).abs().max())
        self.apart.append(found)
        self.trainable.append(sum(p.requires_grad for p in pl_module.parameters()))


def _tensors(trainer: Any, module: Any) -> list[tuple[str, Tensor]]:
    named = list(module.state_dict().items())
    for i, optimizer in enumerate(trainer.optimizers):
        for j, state in sorted(optimizer.state_dict()["state"].items()):
            named += [(f"{i}.{j}.{k}", v) for k, v in state.items() if isinstance(v, Tensor)]
    return named


def _loader(seat: Seat, batches: int = 4) -> Any:
    return data(batches, seed=5 + seat.rank)


def _trainer(seat: Seat, *callbacks: Any, **options: Any) -> pl.Trainer:
    wrapper = options.pop("wrapper", WRAPPERS["plain"])
    strategy: Any = DDPStrategy(**wrapper) if seat.ranks > 1 else "auto"
    settings = {
        "devices": seat.ranks,
        "strategy": strategy,
        "use_distributed_sampler": False,
        "default_root_dir": seat.folder,
        "max_epochs": EPOCHS,
        **options,
    }
    return trainer(*callbacks, **settings)


def _freezing(**options: Any) -> LayerFreezing:
    return LayerFreezing(**{"schedule": SCHEDULE, "verbose": False, **options})


def stages(seat: Seat) -> dict[str, Any]:
    """Thaw in each kind of wrapper, with and without accumulation."""
    found = {}
    for name, accumulation in CASES:
        apart, module = Apart(), Transfer(adamw if accumulation > 1 else sgd)
        _trainer(
            seat,
            _freezing(),
            apart,
            wrapper=WRAPPERS[name],
            accumulate_grad_batches=accumulation,
        ).fit(module, _loader(seat), data(1))
        found[f"{name}-{accumulation}"] = {
            "apart": [max(each.values()) for each in apart.apart],
            "trainable": apart.trainable,
        }
    return found


def plateau(seat: Seat) -> dict[str, Any]:
    """Thaw when a metric that differs from rank to rank no longer gets better."""

    class Local(Transfer):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            # On one rank it gets better all the time, on the other it does not.
            value = -float(self.current_epoch) if seat.rank else 2.0 * self.current_epoch
            self.log("val_loss", value, sync_dist=False)

    warnings.filterwarnings("ignore", "It is recommended to use .* sync_dist=True")
    apart = Apart()
    callback = _freezing(
        schedule=["head", "high", "low"],
        on_plateau="val_loss",
        window=2,
        patience=1,
        restore_best=True,
    )
    _trainer(seat, callback, apart, max_epochs=7).fit(Local(), _loader(seat), data(1))
    return {"apart": [max(a.values()) for a in apart.apart], "trainable": apart.trainable}


class Wrappers(pl.Callback):
    """Keeps weak references to each wrapper that there was."""

    def __init__(self, *, holds: bool) -> None:
        self.holds = holds
        self.held: list[Any] = []
        self.seen: list[Any] = []
        self.alive: list[int] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Look at the wrapper of this batch."""
        wrapper = trainer.strategy.model
        assert isinstance(wrapper, DistributedDataParallel)
        if not self.seen or self.seen[-1]() is not wrapper:
            self.seen.append(weakref.ref(wrapper))
            self.held += [wrapper] if self.holds else []
        del wrapper
        gc.collect()
        self.alive.append(sum(each() is not None for each in self.seen))


def wrappers(seat: Seat) -> dict[str, Any]:
    """Count wrappers, without and with somebody who holds on to each."""
    return {"left": _wrappers(seat, holds=False), "held": _wrappers(seat, holds=True)}


def _wrappers(seat: Seat, *, holds: bool) -> dict[str, Any]:
    """Count the wrappers that are alive, and compare gradients with the mean over the ranks."""
    watch = Wrappers(holds=holds)
    errors: list[float] = []

    class Checks(Transfer):
        def on_after_backward(self) -> None:
            trained = [p for p in self.parameters() if p.requires_grad]
            reduced: list[Any] = [p.grad for p in trained]
            x, y = self.batch
            torch.manual_seed(self.global_step)
            loss = functional.cross_entropy(self(x), y)
            own = torch.autograd.grad(loss, trained)
            mean = [self.trainer.strategy.reduce(each.clone(), reduce_op="mean") for each in own]
            pairs = zip(mean, reduced, strict=True)
            errors.append(max(float((a - b).abs().max()) for a, b in pairs))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.batch = batch
            torch.manual_seed(self.global_step)
            return super().training_step(batch, batch_idx)

    _trainer(seat, _freezing(), watch, max_epochs=3).fit(Checks(), _loader(seat), data(1))
    return {"wrappers": len(watch.seen), "alive": watch.alive, "error": max(errors)}


def resumed(seat: Seat) -> dict[str, Any]:
    """Resume at each boundary, and compare all weights with those never interrupted."""
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")

    class Seeded(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            torch.manual_seed(self.global_step + 100 * seat.rank)
            return super().training_step(batch, batch_idx)

    folder = seat.folder / "resumed"
    saving = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = Seeded()
    options: dict[str, Any] = {"enable_checkpointing": True}
    _trainer(seat, _freezing(), saving, **options).fit(whole, _loader(seat), data(1))
    found = {}
    for epoch in range(EPOCHS - 1):
        module = Seeded()
        _trainer(seat, _freezing()).fit(
            module,
            _loader(seat),
            data(1),
            ckpt_path=folder / f"epoch={epoch}.ckpt",
            weights_only=True,
        )
        mine, theirs = kept(whole), kept(module)
        found[str(epoch)] = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    return found


class Pair(Transfer):
    """Trains with two optimizers by hand, as a GAN does."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Step both."""
        x, y = batch
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = functional.cross_entropy(self(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        """Return one for each half."""
        return [sgd(self.backbone.parameters()), adamw(self.head.parameters())]


def manual(seat: Seat) -> dict[str, Any]:
    """Thaw under manual optimisation."""
    found = {}
    for name in ("plain", "find_unused"):
        apart = Apart()
        schedule = {0: ["head", "high"], 2: "low"}
        _trainer(seat, _freezing(schedule=schedule), apart, wrapper=WRAPPERS[name]).fit(
            Pair(), _loader(seat), data(1)
        )
        # DDP itself lets statistics of batches differ until the next forward pass.
        found[name] = [max(v for k, v in a.items() if "running" not in k) for a in apart.apart]
    return found


def lightnings_own(seat: Seat) -> list[dict[str, float]]:
    """Have Lightning's `BackboneFinetuning` do it: the same script, but for the callback."""

    class HeadFirst(Transfer):
        def configure_optimizers(self) -> Any:
            return sgd(filter(lambda p: p.requires_grad, self.parameters()))

    apart = Apart()
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=1, train_bn=False)
    _trainer(seat, callback, apart, max_epochs=2).fit(HeadFirst(), _loader(seat), data(1))
    return [
        {
            half: max((v for k, v in each.items() if k.startswith(half)), default=0.0)
            for half in ("backbone", "head")
        }
        for each in apart.apart
    ]


TOGETHER: list[Callable[[Seat], Any]] = [
    stages,
    plateau,
    wrappers,
    resumed,
    manual,
    lightnings_own,
]
ALONE: list[Callable[[Seat], Any]] = []
