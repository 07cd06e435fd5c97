"""Training on cached features is training, only faster (T4, P44)."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import all_monitors, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_diag import DiagWarning, LayerFreezing
from lightning_diag._compat import MisconfigurationException
from lightning_diag.transfer.cache import FeatureCache
from lightning_diag.transfer.where import why_impossible
from transfer.caches import Altered, Residual, Transfer, cache, fit, loader, noisy, pictures, same

pytestmark = pytest.mark.filterwarnings(r"ignore:Found .* module\(s\) in eval mode at the start")


@pytest.mark.parametrize(
    ("frontier", "workers"),
    [("backbone", 0), ("backbone", 1), ("backbone.layer2", 0), (None, 0)],
)
def test_the_head_ends_bit_for_bit_as_without_a_cache(
    tmp_path: Path, frontier: str | None, workers: int
) -> None:
    """Batches of the same samples in the same order, dropout with the same numbers."""
    data = [loader(num_workers=workers) for _ in range(2)]
    bare = fit(data=data[0])
    callback = FeatureCache(str(tmp_path), frontier)
    cached = fit(callback, data=data[1])
    assert same(bare, cached)
    assert bare.order == cached.order
    assert bare.losses == cached.losses
    assert bare.validated == cached.validated
    assert set(cached.kinds) == {"CachedInput"}
    assert callback.exact


def test_frozen_modules_run_once_for_each_sample(tmp_path: Path) -> None:
    calls: list[int] = []
    module = Transfer()
    module.backbone.layer3.conv.register_forward_hook(lambda *_: calls.append(1))
    fit(cache(tmp_path), module=module, validation=loader(shuffle=False), max_epochs=3)
    first = len(calls)
    calls.clear()
    again = Transfer()
    again.backbone.layer3.conv.register_forward_hook(lambda *_: calls.append(1))
    fit(cache(tmp_path), module=again, max_epochs=9)
    # Epochs end with a batch of 4 instead of 8, which may be computed for its last bits.
    assert len(calls) < first
    assert len(calls) < 9 * 6 * 2 / 2


def test_a_second_fit_finds_the_features(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = fit(cache(tmp_path))
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.npy")}
    with caplog.at_level("INFO"):
        second = fit(cache(tmp_path))
    assert same(first, second)
    assert shards == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.npy")}
    assert "found." in caplog.text


def test_the_speed_up_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = cache(tmp_path)
    with caplog.at_level("INFO"):
        fit(callback)
    said = [line for line in caplog.messages if "× faster" in line]
    assert len(said) == 1
    assert callback.speed_up is not None
    assert callback.speed_up > 1


class Thaw(pl.Callback):
    """Thaws a part of the backbone when an epoch begins."""

    def __init__(self, **parts: int) -> None:
        self.parts = {name.replace("_", "."): epoch for name, epoch in parts.items()}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, epoch in self.parts.items():
            if trainer.current_epoch >= epoch:
                pl_module.get_submodule(name).requires_grad_()


class Noted(pl.Callback):
    """Notes where the cut was in each epoch."""

    def __init__(self, callback: FeatureCache) -> None:
        self.callback, self.cuts = callback, list[Any]()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.cuts.append(self.callback.cut_at)


def test_the_frontier_moves_up_when_layers_thaw(tmp_path: Path) -> None:
    thaw = {"backbone_out": 1, "backbone_layer3": 2, "backbone_stem": 3}
    bare = fit(Thaw(**thaw), max_epochs=4)
    callback = cache(tmp_path)
    noted = Noted(callback)
    cached = fit(Thaw(**thaw), callback, noted, max_epochs=4)
    assert noted.cuts == ["backbone", "backbone.layer3", "backbone.layer2", None]
    assert same(bare, cached)
    assert bare.losses == cached.losses
    assert not torch.equal(cached.backbone.out.weight, Transfer().backbone.out.weight)


def test_thawing_in_the_middle_of_an_epoch_is_never_served_stale(tmp_path: Path) -> None:
    class Midway(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
            if trainer.current_epoch == 1 and i == 2:
                module.backbone.layer2.requires_grad_()

    bare = fit(Midway())
    cached = fit(cache(tmp_path), Midway())
    assert same(bare, cached)
    assert not torch.equal(
        cached.backbone.layer2.conv.weight, Transfer().backbone.layer2.conv.weight
    )


def test_weights_written_past_the_version_counter_are_noticed(tmp_path: Path) -> None:
    """`.data` leaves no trace in `_version`; the hash of each epoch sees it."""

    class Write(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                module.backbone.stem.weight.data.mul_(1.01)

    assert same(fit(Write()), fit(Write(), cache(tmp_path)))


def test_an_input_that_is_used_besides_is_loaded(tmp_path: Path) -> None:
    class Both(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            scale = (batch[0] + 1).abs().mean()
            loss: Tensor = super().training_step(batch, batch_idx) * scale
            return loss

    assert same(fit(module=Both()), fit(cache(tmp_path), module=Both()))


def test_what_changes_the_input_on_its_way_is_computed_with(tmp_path: Path) -> None:
    class Before(Transfer):
        def forward(self, x: Any) -> Tensor:
            return super().forward(x.flip(-1))

    module = Before()
    assert same(fit(module=Before()), fit(cache(tmp_path), module=module))


def test_several_inputs_by_place_and_by_name(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 12)

        def forward(self, x: Tensor, *, mask: Tensor) -> dict[str, Tensor]:
            return {"pooled": self.layer(x * mask), "mask": mask}

    class Net(Transfer):
        def __init__(self) -> None:
            torch.manual_seed(2)
            super().__init__(Two())

        def forward(self, x: Any) -> Tensor:
            out = self.backbone(x["x"], mask=x["mask"])
            scores: Tensor = self.head(out["pooled"] * out["mask"].sum(1, keepdim=True))
            return scores

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.order.append(batch["y"].tolist())
            self.kinds += [type(batch["x"]).__name__, type(batch["mask"]).__name__]
            return nn.functional.cross_entropy(self(batch), batch["y"] % 3)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.validated.append(self(batch).sum().item())

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator)
    rows: Any = [{"x": x[i], "mask": (x[i] > 0).float(), "y": i} for i in range(40)]
    nets = [
        fit(*callbacks, module=Net(), data=loader(rows), validation=loader(rows, shuffle=False))
        for callbacks in ([], [cache(tmp_path, "backbone", inputs=["x", "mask=mask"])])
    ]
    assert same(*nets)
    assert nets[0].order == nets[1].order
    assert set(nets[1].kinds) == {"CachedInput"}


class Broken(nn.Module):
    """Hands its input to a layer that no feature may come from."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.flat, self.first, self.layer = nn.Flatten(), nn.Linear(64, 12), layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.first(self.flat(x)))
        return out


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


def _module(layer: nn.Module, *, training: bool = False, trains: bool = False) -> Transfer:
    module = Transfer(Broken(layer))
    layer.train(training)
    layer.requires_grad_(trains)
    return module


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(pictures(16))


@pytest.mark.parametrize(
    ("module", "data", "reason"),
    [
        (_module(nn.Linear(12, 12), trains=True), None, "'backbone.layer.weight' is trainable"),
        (_module(nn.BatchNorm1d(12), training=True), None, "BatchNorm1d.* so that it mixes"),
        (_module(nn.Dropout(0.2), training=True), None, "Dropout.* so that it is random"),
        (_module(Functional()), None, "'backbone' is random"),
        (_module(Mixing()), None, "'backbone' mixes samples"),
        (None, loader(Altered(noisy)), "transforms are random: sample 0"),
        (None, DataLoader(Stream(), 8), "the samples of Stream have no numbers"),
    ],
)  # fmt: skip
def test_what_could_be_wrong_is_refused_with_the_reason(
    tmp_path: Path, module: Any, data: Any, reason: str
) -> None:
    callback = cache(tmp_path)
    with pytest.raises(MisconfigurationException, match=reason):
        fit(callback, module=module, data=data)
    assert not list(tmp_path.glob("*/*.npy"))


def test_a_frontier_whose_block_adds_its_own_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="a value from before it"):
        fit(cache(tmp_path, "backbone.layer1.conv"))
    with pytest.raises(MisconfigurationException, match=r"'backbone\.layer4' runs 0 times"):
        fit(cache(tmp_path, "backbone.layer4"))


def test_with_a_warning_training_goes_on_without(tmp_path: Path) -> None:
    data = [loader(Altered(noisy)) for _ in range(2)]
    bare = fit(data=data[0])
    callback = cache(tmp_path, "backbone", refusal="warn")
    with pytest.warns(DiagWarning, match="transforms are random"):
        cached = fit(callback, data=data[1])
    assert same(bare, cached)
    assert callback.cut_at is None


def test_one_random_sample_is_found_when_the_cache_is_filled(tmp_path: Path) -> None:
    """It is none of those that are fetched twice; the two passes over all see it."""
    target = pictures()[20][0]

    def rare(x: Tensor) -> Tensor:
        return x + torch.rand(()) if torch.equal(x, target) else x

    with pytest.raises(MisconfigurationException, match="samples 16 to 23 are others"):
        fit(cache(tmp_path, "backbone", samples=1), data=loader(Altered(rare)))


def test_each_epoch_draws_one_of_several_views_of_each_sample(tmp_path: Path) -> None:
    data = Altered(noisy, 40)
    by_sample: dict[int, set[float]] = {}
    features = cache(tmp_path, "backbone", views=4)
    values = _Values(features)
    fit(features, values, module=Transfer(), data=loader(data, shuffle=False), max_epochs=6)
    for numbers, first in values.seen:
        for number, value in zip(numbers, first, strict=True):
            by_sample.setdefault(number, set()).add(value)
    counts = [len(found) for found in by_sample.values()]
    assert max(counts) <= 4
    assert sum(counts) / len(counts) > 2


class _Values(pl.Callback):
    """Notes one feature of each sample."""

    def __init__(self, callback: FeatureCache) -> None:
        self.callback, self.seen = callback, list[Any]()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
        features = batch[0].features.output()
        self.seen.append((batch[1].tolist(), features.sum(1).tolist()))


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("views", [None, 3])
def test_an_interrupted_fit_resumes_bit_for_bit(tmp_path: Path, views: int | None) -> None:
    """Also behind a stage boundary; views of an epoch depend on its number alone."""

    def train(name: str, **options: Any) -> Any:
        module = Transfer()
        module.head[2] = nn.Identity()  # a resumed fit draws other dropout than one that went on
        data = [loader(Altered(noisy) if views else None, shuffle=False) for _ in range(1)]
        saving = ModelCheckpoint(tmp_path / name, "{epoch}", save_top_k=-1)
        return fit(
            Thaw(backbone_out=2),
            cache(tmp_path / f"{name}-features", "backbone", views=views),
            saving,
            module=module,
            data=data[0],
            max_epochs=4,
            enable_checkpointing=True,
            **options,
        )

    whole = train("whole")
    for epoch in (0, 1, 2):
        resumed = train(f"from-{epoch}", resume=tmp_path / "whole" / f"epoch={epoch}.ckpt")
        assert same(whole, resumed)


def test_bfloat16_takes_half_the_room_and_comes_close(tmp_path: Path) -> None:
    exact, rounded = cache(tmp_path / "a"), cache(tmp_path / "b", "backbone", dtype="bfloat16")
    first, second = fit(exact), fit(rounded)
    sizes = [
        sum(path.stat().st_size - 128 for path in (tmp_path / name).glob("*/*.0.npy"))
        for name in "ab"
    ]
    assert sizes[1] * 2 == sizes[0]
    assert not same(first, second)
    assert first.losses == pytest.approx(second.losses, rel=0.05)
    assert second.head[0].weight.dtype == torch.float32


def test_a_data_module_needs_no_change(tmp_path: Path) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader()

        def val_dataloader(self) -> Any:
            return loader(shuffle=False)

    modules = []
    for callbacks in ([], [cache(tmp_path)]):
        module = Transfer()
        torch.manual_seed(5)
        trainer(*callbacks, max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(
            module, datamodule=Data()
        )
        modules.append(module)
    assert same(*modules)
    assert set(modules[1].kinds) == {"CachedInput"}


@pytest.mark.parametrize("end", ["end", "exception", "interrupt"])
def test_nothing_stays_attached(tmp_path: Path, end: str) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            if end == "exception":
                raise RuntimeError("stop")
            if end == "interrupt":
                raise KeyboardInterrupt

    module, data = Transfer(), loader()
    validation = loader(shuffle=False)
    before = [dict(part.__dict__) for part in module.modules()]
    coach = trainer(cache(tmp_path), Stop(), max_epochs=1)
    if end == "end":
        coach.fit(module, data, validation)
    else:
        with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
            coach.fit(module, data, validation)
    assert type(data) is type(validation) is DataLoader
    assert "process_dataloader" not in vars(coach.strategy)
    assert not any("lightning_diag" in name for name in vars(data))
    for part, known in zip(module.modules(), before, strict=True):
        assert ("forward" in part.__dict__) == ("forward" in known)
        assert part._forward_hooks == {}
        assert part._forward_pre_hooks == {}


def test_two_in_one_trainer_get_along(tmp_path: Path) -> None:
    callbacks = [cache(tmp_path / "a"), cache(tmp_path / "b", "backbone.layer1")]
    assert same(fit(), fit(*callbacks))


def test_it_pickles(tmp_path: Path) -> None:
    callback = cache(tmp_path)
    fit(callback)
    again = pickle.loads(pickle.dumps(callback))
    assert (again.folder, again.frontier, again.speed_up) == (
        callback.folder, callback.frontier, callback.speed_up,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "`dtype` must be 'bfloat16', 'float16' or None, got 'int8'"),
        ({"views": 0}, "`views` must be at least 1 view of each sample, or None, got 0"),
        ({"check": "none"}, "`check` must be 'all' or 'sampled', got 'none'"),
        ({"samples": 0}, "`samples` must be at least 1 sample, got 0"),
        ({"max_bytes": 0}, "`max_bytes` must be at least 1 byte, or None, got 0"),
        ({"refusal": "no"}, "`refusal` must be 'raise' or 'warn', got 'no'"),
    ],
)
def test_bad_arguments_are_refused_at_construction(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureCache("folder", **options)


def test_too_little_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"need .* bytes, and `max_bytes` is 100"):
        fit(cache(tmp_path, "backbone", max_bytes=100))


def test_other_precision_is_served_as_it_is(tmp_path: Path) -> None:
    bare = fit(precision="bf16-mixed")
    cached = fit(cache(tmp_path), precision="bf16-mixed")
    assert same(bare, cached)
    keys = {path.parent.name for path in tmp_path.glob("*/entry.json")}
    fit(cache(tmp_path))
    assert len({path.parent.name for path in tmp_path.glob("*/entry.json")}) > len(keys)


def test_manual_optimisation_with_several_optimizers(tmp_path: Path) -> None:
    class Manual(Transfer):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SGD(part.parameters(), 0.05) for part in (self.head[0], self.head[3])
            ]

    bare, cached = fit(module=Manual()), fit(cache(tmp_path), module=Manual())
    assert same(bare, cached)
    assert set(cached.kinds) == {"CachedInput"}


def test_a_dataset_of_one_odd_sample_more_than_batches(tmp_path: Path) -> None:
    data = TensorDataset(*(tensor[:17] for tensor in pictures().tensors))
    module = Transfer()
    module.head[1] = nn.Identity()
    other = Transfer()
    other.head[1] = nn.Identity()
    assert same(
        fit(module=module, data=loader(data)), fit(cache(tmp_path), module=other, data=loader(data))
    )


def test_it_follows_the_layers_that_layer_freezing_thaws(tmp_path: Path) -> None:
    stages = {0: "head", 1: "backbone.out", 2: "backbone.layer3", 3: "backbone.layer2"}

    def module() -> Transfer:
        made = Transfer()
        made.backbone.requires_grad_().train()
        return made

    bare = fit(LayerFreezing(stages), module=module(), max_epochs=4)
    callback = cache(tmp_path)
    noted = Noted(callback)
    cached = fit(LayerFreezing(stages), callback, noted, module=module(), max_epochs=4)
    assert noted.cuts == ["backbone", "backbone.layer3", "backbone.layer2", "backbone.layer1"]
    assert same(bare, cached)
    assert bare.losses == cached.losses
    assert set(cached.kinds) == {"CachedInput"}


def test_all_monitors_watch_it_without_a_warning(tmp_path: Path) -> None:
    """Warnings are errors here: a monitor that does not know a batch's value would warn."""
    options: dict[str, Any] = {"default_root_dir": tmp_path}
    cached = fit(cache(tmp_path / "features"), *all_monitors(), **options)
    assert same(fit(), cached)
    assert set(cached.kinds) == {"CachedInput"}


def test_what_stands_for_an_input_says_its_shape_and_becomes_it(tmp_path: Path) -> None:
    looked: list[Any] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
            x, y = batch
            real = torch.stack([pictures()[int(number)][0] for number in y])
            looked.append((x.shape, x.size(0), len(x), x.ndim, x.dtype, x.dim(), x.numel()))
            assert torch.equal(x + 1, real + 1)
            assert torch.equal(1 - x, 1 - real)
            assert torch.equal(torch.cat([real, x]), torch.cat([real, real]))
            assert torch.equal(x[1:3].flatten(1), real[1:3].flatten(1))
            assert torch.equal(x.to(torch.float64), real.double())
            assert torch.equal(x.mean(), real.mean())
            assert x.device == real.device
            with pytest.raises(AttributeError):
                x.nonsense  # noqa: B018

    assert same(fit(), fit(cache(tmp_path), Look()))
    shape = torch.Size((8, 1, 8, 8))
    assert looked[0] == (shape, 8, 8, 4, torch.float32, 4, 512)


def test_several_loaders_of_training_and_validation_are_all_served(tmp_path: Path) -> None:
    class Several(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            first, second = (super(Several, self).training_step(part, 0) for part in batch)
            return first + second

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.kinds.append(type(batch[0]).__name__)
            super().validation_step(batch, batch_idx)

    def train(*callbacks: Any) -> Any:
        module = Several()
        module.backbone.stem.register_forward_hook(lambda *_: calls.append(len(module.order)))
        return fit(
            *callbacks,
            module=module,
            data=[loader(pictures(24)), loader(pictures(24, seed=8))],
            validation=[loader(pictures(16, seed=s), shuffle=False) for s in (1, 2)],
        )

    calls: list[int] = []
    bare = train()
    calls.clear()
    cached = train(cache(tmp_path))
    assert same(bare, cached)
    assert bare.validated == cached.validated
    assert set(cached.kinds) == {"CachedInput"}
    assert calls
    assert max(calls) <= 6  # before the end of the first epoch: three batches of two loaders


def test_a_sanity_check_of_validation_changes_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_sanity_val_steps": 2, "check_val_every_n_epoch": 2}
    bare = fit(max_epochs=4, **options)
    cached = fit(cache(tmp_path), max_epochs=4, **options)
    assert same(bare, cached)
    assert bare.validated == cached.validated


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_what_a_transfer_hook_does_to_the_input_is_done(tmp_path: Path, hook: str) -> None:
    def changed(self: Any, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return x * 2, y

    kind = type("Hooked", (Transfer,), {hook: changed})
    assert same(fit(module=kind()), fit(cache(tmp_path), module=kind()))


def test_it_serves_the_trainer_of_the_other_name(tmp_path: Path) -> None:
    import lightning.pytorch as other

    class Module(other.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Transfer()
            self.backbone, self.head = self.net.backbone, self.net.head
            del self.net
            self.kinds: list[str] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.kinds.append(type(batch[0]).__name__)
            scores = self.head(self.backbone(batch[0]))
            return nn.functional.cross_entropy(scores, batch[1] % 3)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.head.parameters(), 0.1)

    modules = []
    for callbacks in ([], [cache(tmp_path)]):
        module = Module()
        torch.manual_seed(5)
        other.Trainer(
            accelerator="cpu",
            max_epochs=2,
            callbacks=callbacks,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, loader())
        modules.append(module)
    assert same(*modules)
    assert set(modules[1].kinds) == {"CachedInput"}


def test_a_compiled_model_and_split_weights_are_refused(tmp_path: Path) -> None:
    module = Transfer()
    module.backbone.layer1 = type("OptimizedModule", (nn.Linear,), {})(2, 2)
    with pytest.raises(MisconfigurationException, match="the model is compiled"):
        fit(cache(tmp_path), module=module)
    kind = type("FSDPStrategy", (), {})
    reason = why_impossible(SimpleNamespace(strategy=kind()), Transfer())
    assert reason is not None
    assert reason.startswith("FSDPStrategy splits the weights")
    assert why_impossible(SimpleNamespace(strategy=object()), Transfer()) is None


def test_features_that_nobody_uses_are_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The module that is called is not the one that was named."""

    class Around(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1] % 3)

    with caplog.at_level("INFO"):
        cached = fit(cache(tmp_path, "backbone", within=""), module=Around())
    assert "'the module' was not called with the batch's own input" in caplog.text
    assert same(fit(module=Around()), cached)


def test_a_refusal_is_said_once_for_as_long_as_nothing_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fit(Thaw(backbone=1), cache(tmp_path), max_epochs=4)
    said = [line for line in caplog.messages if "train goes without a cache" in line]
    assert len(said) == 1
    assert "'backbone.stem.weight' is trainable" in said[0]


def test_without_validation_only_training_is_cached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        cached = fit(cache(tmp_path, "backbone", validation=False))
    assert same(fit(), cached)
    assert "validation" not in caplog.text


def test_frozen_layers_that_work_in_place_leave_the_batch_alone(tmp_path: Path) -> None:
    class InPlace(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2.0))

    def module() -> Transfer:
        torch.manual_seed(4)
        return Transfer(InPlace())

    assert same(fit(module=module()), fit(cache(tmp_path), module=module()))


class Rounding(nn.Module):
    """A layer whose last bits depend on the size of the batch, as kernels of some devices do."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + len(x) * 2**-20)


def test_a_smaller_last_batch_has_the_bits_of_its_own_size(tmp_path: Path) -> None:
    def module() -> Transfer:
        torch.manual_seed(4)
        return _module(Rounding())

    assert len(pictures()) % 8
    bare, cached = fit(module=module()), fit(cache(tmp_path), module=module())
    assert same(bare, cached)
    assert bare.validated == cached.validated


def test_a_hook_on_the_frontier_works_once_on_each_output(tmp_path: Path) -> None:
    def module() -> Transfer:
        made = Transfer()
        made.backbone.register_forward_hook(lambda *args: args[-1] * 3.0)
        made.backbone.layer2.register_forward_hook(lambda *args: args[-1] + 1.0)
        return made

    bare = fit(module=module())
    for frontier in ("backbone", "backbone.layer2"):
        assert same(bare, fit(cache(tmp_path, frontier), module=module()))


class Encoder(nn.Module):
    """torch's own encoder, which computes in another way when nothing needs a gradient."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.embedding, self.layers = nn.Embedding(64, 16), nn.TransformerEncoder(layer, 3)
        self.out = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens = x.shape
        position = torch.arange(tokens)[None, :, None] / (tokens + 0 * samples)
        out: Tensor = self.out(self.layers(self.embedding(x) + position)).mean(1)
        return out


def test_a_transformer_is_cut_between_its_layers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(64, (40, 9), generator=generator)
    tokens = TensorDataset(x, torch.arange(40))

    def train(*callbacks: Any) -> Any:
        torch.manual_seed(2)
        module = Transfer(Encoder())
        return fit(
            Thaw(backbone_layers_layers_2=1, backbone_out=1),
            *callbacks,
            module=module,
            data=loader(tokens),
            validation=loader(tokens, shuffle=False),
        )

    callback = cache(tmp_path)
    noted = Noted(callback)
    bare, cached = train(), train(callback, noted)
    assert noted.cuts == ["backbone", "backbone.layers.layers.1", "backbone.layers.layers.1"]
    assert same(bare, cached)
    assert bare.validated == cached.validated
