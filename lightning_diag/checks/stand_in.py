"""A trainer that never trains: what a module's own code asks its trainer for."""

from __future__ import annotations

import math
from typing import Any

from lightning_diag._compat import NAMESPACES, Namespace
from lightning_diag.checks.data import copies, leaves

_LIKE = ("max_epochs", "max_steps", "gradient_clip_val", "gradient_clip_algorithm",
         "accumulate_grad_batches", "default_root_dir")  # fmt: skip


def stand_in(
    module: Any, namespace: Namespace, loaders: Any = None, datamodule: Any = None, like: Any = None
) -> Any:
    """Return a trainer for a copy of a module, attached to it: one device, no logger, no callback.

    Args:
        module: The copy.
        namespace: Whose Trainer it is.
        loaders: Training's; what the trainer gets are copies.
        datamodule: A copy of one; its hooks are those of batches.
        like: The user's trainer, whose settings hold here, too; it is only read.
    """
    home: Any = NAMESPACES[namespace]
    options = {} if like is None else {name: getattr(like, name) for name in _LIKE}
    if not module.automatic_optimization:
        options |= {"gradient_clip_val": None, "accumulate_grad_batches": 1}
    trainer = home.Trainer(
        accelerator="cpu",
        devices=1,
        # Those of clusters compare their numbers of processes with that of this trainer.
        plugins=[home.trainer.connectors.accelerator_connector.LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, **options},
    )
    trainer.callbacks = []
    # Module code may ask a logger for anything.
    trainer.loggers = [home.loggers.logger.DummyLogger()]
    trainer.state.fn = home.trainer.states.TrainerFn.FITTING
    trainer.training = True
    trainer.save_checkpoint = _nothing
    trainer.strategy.connect(module)
    trainer._data_connector.attach_data(module, datamodule=datamodule)
    if loaders is not None:
        _attach(trainer, home, loaders, like)
    return trainer


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Write no file."""


def _attach(trainer: Any, home: Any, loaders: Any, like: Any) -> None:
    """Let the trainer know its loaders and their length, without iterating them."""
    loop = trainer.fit_loop
    loop._combined_loader = home.utilities.combined_loader.CombinedLoader(
        copies(loaders), "max_size_cycle"
    )
    if like is not None:
        loop.max_batches = like.num_training_batches
        return
    lengths = [_length(loader) for loader in leaves(loaders)]
    loop.max_batches = max(lengths, default=math.inf)


def _length(loader: Any) -> float:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf
