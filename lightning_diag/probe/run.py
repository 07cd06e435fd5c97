"""What the probe needs to know of a trainer and its module, read in one place."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_diag.measure.modes import dropout_of
from lightning_diag.measure.tally import joining_ranks
from lightning_diag.probe.places import named_modules, named_parameters

_NO_GRADIENTS = ("DeepSpeedStrategy", "FSDPStrategy", "XLAFSDPStrategy")
"""Strategies that flatten parameters, or keep gradients where nobody else can read them."""


@dataclass
class OptimizerStep:
    """One step of one optimizer that is being watched."""

    index: int
    """Which of the trainer's optimizers."""
    label: str
    """Place of this optimizer's totals: empty if it is the only one."""
    names: tuple[str, ...]
    """Names of the parameters that it may change now, in the model's order."""
    parameters: list[nn.Parameter]
    """Those parameters."""
    scale: Tensor | None
    """The loss scale that the gradients still carry, if they do."""
    skipped: Tensor | None = None
    """Set by fused optimizers under a grad scaler: above 0 where they left the weights alone."""
    taken: bool = False
    """Whether the step has been seen to happen."""


@dataclass(frozen=True)
class ParameterPlace:
    """Where a parameter stands in its model."""

    name: str
    layer: str
    parameter: nn.Parameter
    optimizers: tuple[int, ...]
    """Indices of the optimizers that hold it."""


@dataclass
class Run:
    """A trainer and its module, as far as watching needs them."""

    trainer: Any
    module: nn.Module
    places: list[ParameterPlace] = field(default_factory=list)
    train_samples: int | None = None
    """Size of the training set, the same on all ranks; None if unknown."""

    @classmethod
    def of(cls, trainer: Any, module: Any) -> Run:
        """Read the parameters and who holds them; the trainer must have its optimizers."""
        holders: dict[int, list[int]] = {}
        for i, optimizer in enumerate(trainer.optimizers):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    holders.setdefault(id(parameter), []).append(i)
        places = [
            ParameterPlace(name, layer, parameter, tuple(holders.get(id(parameter), ())))
            for name, layer, parameter in named_parameters(module)
        ]
        return cls(trainer, module, places)

    @property
    def is_lazy(self) -> bool:
        """Whether a parameter still waits for its first input to learn its shape."""
        return any(isinstance(p.parameter, UninitializedParameter) for p in self.places)

    @property
    def weights(self) -> dict[str, int]:
        """Elements of each trained parameter of two dimensions or more, by name."""
        held = [p for p in self.places if p.optimizers and p.parameter.requires_grad]
        known = [p for p in held if not isinstance(p.parameter, UninitializedParameter)]
        return {p.name: p.parameter.numel() for p in known if p.parameter.dim() > 1}

    @property
    def device(self) -> torch.device:
        """Device on which ranks join."""
        device: torch.device = self.trainer.strategy.root_device
        return device

    @property
    def ranks(self) -> int:
        """Processes that train together and can join."""
        return joining_ranks(int(self.trainer.world_size))

    @property
    def is_first_rank(self) -> bool:
        """Whether this process writes."""
        return bool(self.trainer.is_global_zero)

    @property
    def automatic(self) -> bool:
        """Whether Lightning runs backward and step."""
        return bool(getattr(self.module, "automatic_optimization", True))

    @property
    def step(self) -> int:
        """The step that Lightning's own metrics of this batch are logged with."""
        return int(self.trainer.fit_loop.epoch_loop._batches_that_stepped)

    @property
    def unreachable_gradients(self) -> str | None:
        """Name of the strategy that hides gradients and weights, None if it does not."""
        names = {cls.__name__ for cls in type(self.trainer.strategy).__mro__}
        return next((name for name in _NO_GRADIENTS if name in names), None)

    @property
    def fetcher(self) -> Any:
        """What fetches the batches of training, or None."""
        return getattr(self.trainer.fit_loop, "_data_fetcher", None)

    @property
    def scaler(self) -> Any:
        """The grad scaler, or None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def clips(self) -> bool:
        """Whether gradients may change between backward and the optimizer's step."""
        module = self.module
        own = getattr(type(module), "configure_gradient_clipping", None)
        overridden = own is not None and not (own.__module__ or "").startswith(
            ("pytorch_lightning.", "lightning.pytorch.")
        )
        by_callback = any(getattr(c, "clips_gradients", False) for c in self.trainer.callbacks)
        return by_callback or (
            self.automatic and (overridden or bool(self.trainer.gradient_clip_val))
        )

    def optimizer_step(self, index: int) -> OptimizerStep:
        """Collect the parameters that optimizer `index` may change in this step."""
        held = [p for p in self.places if index in p.optimizers and p.parameter.requires_grad]
        optimizer = self.trainer.optimizers[index]
        unscales = getattr(optimizer, "_step_supports_amp_scaling", False)
        scale = self.loss_scale() if unscales else None
        label = "" if len(self.trainer.optimizers) == 1 else f"optimizer{index}"
        names = tuple(place.name for place in held)
        return OptimizerStep(index, label, names, [place.parameter for place in held], scale)

    def loss_scale(self) -> Tensor | None:
        """Return the scaler's scale without waiting for the device, None without a scaler."""
        scaler = self.scaler
        if scaler is None or not scaler.is_enabled():
            return None
        scale: Tensor | None = scaler._get_scale_async()
        if scale is None:  # before the first backward
            return torch.tensor(float(scaler.get_scale()), device="cpu")
        return scale

    def pooled_samples(self, of_ranks: Sequence[int | None]) -> int | None:
        """Return the size of the training set from what each rank counts.

        Where Lightning spreads the samples, each rank holds the whole set; else each has its part.
        """
        sampler = getattr(self.trainer.train_dataloader, "sampler", None)
        known = [n for n in of_ranks if n is not None]
        if len(known) < len(of_ranks):
            return None
        return known[0] if hasattr(sampler, "num_replicas") else sum(known)

    def count_samples(self) -> int | None:
        """Return the size of this rank's training set, None if it is unknown."""
        loader = self.trainer.train_dataloader
        dataset = getattr(loader, "dataset", None)
        if not isinstance(dataset, Sized):
            return None
        try:
            return len(dataset)
        except TypeError:
            return None

    def groups(self, only: int | None = None) -> dict[str, float]:
        """Return the learning rate that each parameter group steps with, by name.

        Args:
            only: Index of the optimizer that is asked for; None asks for all.
        """
        rates: dict[str, float] = {}
        chosen: dict[str, float] = {}
        for number, optimizer in enumerate(self.trainer.optimizers):
            many = sum(type(other) is type(optimizer) for other in self.trainer.optimizers) > 1
            owner = f"{type(optimizer).__name__}{number if many else ''}"
            # What callbacks make of the rate: a group holds the user's own until the step.
            applied = getattr(optimizer, "_lightning_diag_lr", None)
            with nullcontext() if applied is None else applied.shown():
                for i, group in enumerate(optimizer.param_groups):
                    name = str(group.get("name") or f"{owner}/group{i}")
                    while name in rates:
                        name += "'"
                    rates[name] = float(group["lr"]) if "lr" in group else float("nan")
                    if only in (None, number):
                        chosen[name] = rates[name]
        return chosen

    def describe(self) -> dict[str, Any]:
        """Return what the history's meta says of this run, in plain values."""
        trainer = self.trainer
        meta: dict[str, Any] = {
            "parameters": {
                place.name: {
                    "shape": _shape(place.parameter),
                    "layer": place.layer,
                    "trainable": place.parameter.requires_grad,
                    "optimizers": list(place.optimizers),
                }
                for place in self.places
            },
            "optimizers": [
                {
                    "class": type(optimizer).__name__,
                    "groups": [
                        {
                            key: value
                            for key, value in group.items()
                            if isinstance(value, (int, float, str, bool))
                        }
                        for group in optimizer.param_groups
                    ],
                }
                for optimizer in trainer.optimizers
            ],
            "trainer": {
                "precision": str(trainer.precision),
                "accumulate_grad_batches": trainer.accumulate_grad_batches,
                "gradient_clip_val": trainer.gradient_clip_val,
                "world_size": trainer.world_size,
                "max_epochs": trainer.max_epochs,
                "max_steps": trainer.max_steps,
                "strategy": type(trainer.strategy).__name__,
                "automatic_optimization": self.automatic,
                "module": type(self.module).__name__,
            },
            "modules": {path: type(inner).__name__ for path, inner in named_modules(self.module)},
            "dropout": {
                path: share
                for path, module in named_modules(self.module)
                if module.training and (share := dropout_of(module)) > 0
            },
            "versions": versions(),
        }
        if self.train_samples is not None:
            meta["train_samples"] = self.train_samples
        return meta


def versions() -> Mapping[str, str]:
    """Return the versions of python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "pytorch-lightning", "lightning", "lightning-diag"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _shape(parameter: Tensor) -> list[int]:
    """Return the shape of a parameter, [] while it waits for its first input."""
    return [] if isinstance(parameter, UninitializedParameter) else list(parameter.shape)
