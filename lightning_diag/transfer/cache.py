"""`FeatureCache`: frozen layers run once for each sample, not once for each epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

from lightning_diag._compat import (
    Callback,
    LightningModule,
    MisconfigurationException,
    Trainer,
    namespace_of,
)
from lightning_diag.transfer import reading
from lightning_diag.transfer.cutting import find_cut
from lightning_diag.transfer.features import CachedFeatures
from lightning_diag.transfer.filling import Check, Job, Settings, Stored, fill, first_batch
from lightning_diag.transfer.keys import prefix_key
from lightning_diag.transfer.loaders import Source, intercepted
from lightning_diag.transfer.prefix import Cut, state_of
from lightning_diag.transfer.reading import Samples
from lightning_diag.transfer.serving import Known, Ready, Serving
from lightning_diag.transfer.store import CacheRefusedError
from lightning_diag.transfer.where import Where, input_paths, why_impossible
from lightning_diag.warning import warn

Stage = Literal["train", "validation"]


class FeatureCache(Callback):
    """Compute what frozen layers put out once, and train on it from a memory map (T4, P44).

    Before the first batch of an epoch it looks for the deepest module of which all that runs before
    it is frozen, at most `frontier`. The output of that module is computed for all samples, unless
    it is in `folder` from before, and batches then carry it in the place of their input. The
    LightningModule is not changed: the frozen modules return what the batch carries. Its weights
    end up the same, bit for bit, as far as the device gives a sample's features the same bits in
    other batches (``exact``). When layers thaw, a module further up is taken; when weights change
    in the middle of an epoch, the real input is loaded and computed with.

    Put it behind callbacks that freeze, such as `LayerFreezing`.

    Args:
        folder: Where features are stored; ranks and other runs may share it.
        frontier: Name of the deepest module whose output may be stored. None: any.
        within: Name of the module that is called with the batch's input. None is the first part of
            `frontier`, or the LightningModule itself.
        inputs: Paths of the inputs in a batch (``"0"``, ``"image"``), several in the order of the
            arguments, with ``name=`` before those that are passed by name. None is the batch's
            first value.
        dtype: ``bfloat16`` or ``float16`` to store floating point numbers in, for half the room;
            weights are then no longer the same. None stores them as they are.
        max_bytes: Of all features in `folder`; those that were used least recently are deleted
            when there is no room, but never those in use. None: no limit.
        views: Random views of each sample to store; each epoch draws one. None refuses samples
            that are random.
        check: ``all`` reads every sample once at the beginning, to see whether it is that of the
            stored features; ``sampled`` reads `samples` of them and trusts `key` for the others.
        samples: Samples that are fetched twice to see whether they are random, at least 1. Our
            choice of 64: a transform that changes one of ten is overlooked once in 800 times, and
            then still found with ``check="all"``.
        key: Any text that becomes part of the key, such as a version of the data.
        seed: Decides which view of a sample is read in which epoch.
        shard_bytes: Size of one file, about: what a killed run loses. Our choice of 64 MiB.
        validation: Whether the validation data is cached, too.
        refusal: ``raise`` if the first epoch cannot be cached, or ``warn`` and train without.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: When training begins, with the reason, if features cannot be
            cached.

    Cost:
        Disk for the features. At the beginning one pass over the data, and one with the frozen
        layers unless they are stored; for each epoch a hash of the frozen weights.

    Example:
        >>> FeatureCache("features", "backbone", dtype="bfloat16").frontier
        'backbone'

    See Also:
        `cache_features`: the same as a function, for a loop of one's own.
    """

    def __init__(
        self,
        folder: str,
        frontier: str | None = None,
        *,
        within: str | None = None,
        inputs: str | list[str] | None = None,
        dtype: Stored | None = None,
        max_bytes: int | None = None,
        views: int | None = None,
        check: Check = "all",
        samples: int = 64,
        key: str = "",
        seed: int = 0,
        shard_bytes: int = 64 * 2**20,
        validation: bool = True,
        refusal: Literal["raise", "warn"] = "raise",
    ) -> None:
        super().__init__(folder=folder, frontier=frontier, within=within)
        if refusal not in ("raise", "warn"):
            raise ValueError(f"`refusal` must be 'raise' or 'warn', got {refusal!r}.")
        self.settings = Settings(
            folder, dtype, max_bytes, views, check, samples, key, seed, shard_bytes
        )
        self.folder, self.frontier, self.inputs = folder, frontier, inputs
        self.within = (frontier or "").partition(".")[0] if within is None else within
        self.validation, self.refusal = validation, refusal
        self.cut_at: str | None = None
        """Name of the module whose output training takes from the cache, None while it does not."""
        self.speed_up: float | None = None
        """How much faster the last cached epoch of training was than with the frozen layers."""
        self.exact: bool | None = None
        """Whether features had the same bits in batches of other samples."""
        self._forget()

    def _forget(self) -> None:
        self._sources: list[Source] = []
        self._ready: dict[Stage, Ready] = {}
        self._refused: dict[Stage, list[bool]] = {}
        self._undo: Callable[[], None] | None = None
        self._began = self._paused = 0.0
        self._has_trained = self._is_idle = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave loaders and modules behind: a copy serves nothing yet."""
        live: dict[str, Any] = {"_sources": [], "_ready": {}, "_undo": None}
        return {**self.__dict__, **live}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See which loaders the fit makes."""
        self._leave()
        reason = why_impossible(trainer, pl_module)
        if reason is not None:
            self._refuse(reason)
            self._is_idle = True
            return
        self._undo = intercepted(trainer.strategy, lambda loader: self._adopt(trainer, loader))

    def _adopt(self, trainer: Any, loader: Any) -> None:
        is_training = trainer.training and not trainer.sanity_checking
        if not is_training and not (self.validation and trainer.state.fn == "fit"):
            return
        if Source.of(loader) is not None:
            if not self._sources and not self._is_idle:
                self._is_idle = True
                self._say(trainer, "another one serves this fit, and this one does nothing.")
            return
        try:
            samples = Samples.of_loader(loader)
        except CacheRefusedError as error:
            if is_training:
                self._refuse(str(error))
            return
        self._sources.append(Source.adopt(loader, samples, is_training=is_training))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at once where a fit goes on in the middle of an epoch."""
        if getattr(trainer.fit_loop, "restarted_mid_epoch", False):
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have features ready that are those of the weights as they are."""
        self._serve(trainer, pl_module, "train")
        for source in self._sources:
            if source.features is not None:
                source.features.epoch = trainer.current_epoch
        self._began, self._paused = time.perf_counter(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for validation, whose modes are other ones."""
        self._pause = time.perf_counter()
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._detach("train")
        self._serve(trainer, pl_module, "validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to training."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._detach("validation")
        ready = self._ready.get("train")
        if ready is not None:
            ready.serving = [self._serving(pl_module, ready, "train")]
        self._paused += time.perf_counter() - self._pause

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was gained."""
        ready = self._ready.get("train")
        if ready is None:
            return
        seconds = time.perf_counter() - self._began - self._paused
        hits = ready.hits + sum(serving.hits for serving in ready.serving)
        spared = sum(source.spared for source in self._of("train"))
        before, self.speed_up = self.speed_up, (seconds + spared) / seconds
        if before is None and hits:
            self._say(
                trainer,
                f"an epoch takes {seconds:.3g} s with the features of {ready.cut.frontier!r} from "
                f"the cache; computing them takes another {spared:.3g} s: "
                f"{self.speed_up:.1f} × faster.",
            )
        if not hits:
            self._say(
                trainer,
                f"no batch of the epoch used the features of {ready.cut.frontier!r}: "
                f"{ready.cut.within or 'the module'!r} was not called with the batch's own input, "
                "or the frozen part changed. Name the module that is, with `within`.",
            )
        elif ready.is_stale or any(serving.stale for serving in ready.serving):
            self._say(
                trainer,
                "frozen weights changed in the middle of the epoch; what came after was computed.",
            )

    def _serve(self, trainer: Any, module: Any, stage: Stage) -> None:
        """Have features of all loaders of a stage ready, or take them away."""
        if self._is_idle or (stage == "validation" and not self._of(stage)):
            return
        ready = self._ready.get(stage)
        frozen = [not each.requires_grad for each in module.parameters()]
        if ready is not None and (
            ready.frozen == frozen
            and ready.is_current()
            and ready.key == _weights(module, ready.cut)
            and all(source.features is not None for source in self._of(stage))
        ):
            self._detach(stage)
            ready.serving = [self._serving(module, ready, stage)]
            return
        self._drop(stage)
        state = [*frozen, *(part.training for part in module.modules())]
        if self._refused.get(stage) == state:
            return
        try:
            ready = self._made(trainer, module, stage, frozen)
        except CacheRefusedError as error:
            self._drop(stage)
            if stage == "train" and not self._has_trained:
                self._refuse(str(error))
            self._say(trainer, f"{stage} goes without a cache: {str(error).rstrip('.')}.")
            self._refused[stage] = state
        else:
            self._ready[stage] = ready
            self._refused.pop(stage, None)
        self._has_trained |= stage == "train"
        if stage == "train":
            self.cut_at = None if stage not in self._ready else self._ready[stage].cut.frontier

    def _made(self, trainer: Any, module: Any, stage: Stage, frozen: list[bool]) -> Ready:
        cut: Cut | None = None
        for source in self._of(stage):
            cut = self._fill(trainer, module, source, cut)
        if cut is None:
            raise CacheRefusedError("no loader of it can be cached")
        ready = Ready(cut, _weights(module, cut), state_of(module, cut), frozen, [])
        ready.serving = [self._serving(module, ready, stage)]
        return ready

    def _fill(self, trainer: Any, module: Any, source: Source, cut: Cut | None) -> Cut:
        """Have the features of one loader ready; return where they belong.

        Args:
            cut: Where those of the stage's other loaders belong.
        """
        settings = self._settings(source)
        if settings.views is None:
            reading.require_repeatable(source.samples, settings.samples)
        _, batch = first_batch(source.samples, settings)
        where = self._where(trainer, module, batch)
        if cut is None:
            cut = find_cut(where, batch, self.frontier, moves=self._moves(trainer))
        else:
            cut = find_cut(where, batch, cut.frontier, moves=False)
        if source.data is None:
            source.data = reading.data_key(
                source.samples,
                check=settings.check,
                count=settings.samples,
                views=settings.views,
                key=settings.key,
            )
        filled = fill(Job(where, cut, source.samples, settings, source.data))
        source.features = CachedFeatures(filled, where.inputs, source.samples, settings)
        self.exact = filled.exact
        found = "found" if filled.was_there else f"computed in {filled.seconds:.3g} s"
        stage = "train" if source.is_training else "validation"
        size = filled.entry.layout.bytes / 2**20
        self._say(
            trainer,
            f"{stage}: {cut.frontier or 'the model'!r} of {len(source.samples)} samples, "
            f"{size:.3g} MiB, {found}"
            + ("." if filled.exact else "; last bits differ between batches."),
        )
        return cut

    def _moves(self, trainer: Any) -> bool:
        # What is trainable from the start is a mistake; what thaws later is why frontiers move.
        return self.frontier is None or self._has_trained or trainer.current_epoch > 0

    def _settings(self, source: Source) -> Settings:
        if source.is_training or self.settings.views is None:
            return self.settings
        return Settings(**{**self.settings.__dict__, "views": None})

    def _where(self, trainer: Any, module: Any, batch: Any) -> Where:
        return Where(
            module,
            self.within,
            input_paths(self.inputs, batch),
            trainer.strategy.root_device,
            trainer.precision_plugin.forward_context,
            trainer.precision_plugin.convert_input,
            trainer.global_rank,
            trainer.world_size,
        )

    def _serving(self, module: Any, ready: Ready, stage: Stage) -> Serving:
        features = [source.features for source in self._of(stage) if source.features is not None]
        known = {each.key: Known(each.inputs, each.sizes) for each in features}
        return Serving(module, ready.cut, known, is_current=ready.is_current)

    def _of(self, stage: Stage) -> list[Source]:
        return [source for source in self._sources if source.is_training == (stage == "train")]

    def _detach(self, stage: Stage) -> None:
        if stage in self._ready:
            self._ready[stage].detach()

    def _drop(self, stage: Stage) -> None:
        self._detach(stage)
        self._ready.pop(stage, None)
        for source in self._of(stage):
            if source.features is not None:
                source.features.close()
                source.features = None

    def _refuse(self, reason: str) -> None:
        message = f"FeatureCache: {reason.rstrip('.')}."
        if self.refusal == "raise":
            raise MisconfigurationException(message)
        warn(f"{message} Training goes on without.")

    def _say(self, trainer: Any, message: str) -> None:
        if trainer.is_global_zero:
            logging.getLogger(namespace_of(trainer)).info(f"FeatureCache: {message}")  # noqa: G004

    def _leave(self) -> None:
        self._drop("validation")
        self._drop("train")
        for source in self._sources:
            source.release()
        if self._undo is not None:
            self._undo()
        self._forget()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave loaders and modules as they were."""
        self._leave()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave loaders and modules as they were."""
        self._leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave loaders and modules as they were."""
        self._leave()


def _weights(module: Any, cut: Cut) -> str:
    return prefix_key(cut.modules(module), cut.extra)
