"""Callbacks as a LightningCLI's YAML file describes them (P43)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.demos.boring_classes import BoringModel

T = TypeVar("T")


def callbacks(config: str, *arguments: str) -> list[Any]:
    """Return the callbacks of the trainer that a file and arguments describe, without training."""
    Path("config.yaml").write_text(config, encoding="utf-8")
    cli: Any = LightningCLI(
        BoringModel,
        run=False,
        args=["--config=config.yaml", *arguments],
        save_config_callback=None,
        seed_everything_default=0,
    )
    return list(cli.trainer.callbacks)


def callback(kind: type[T], config: str, *arguments: str) -> T:
    """Return the one callback of a class."""
    (found,) = [each for each in callbacks(config, *arguments) if isinstance(each, kind)]
    return found
