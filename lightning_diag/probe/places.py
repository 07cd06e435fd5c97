"""Names of parameters, layers and call sites: the same whatever wraps the modules (P42)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_WRAPPED_AS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module")
"""Attributes under which compile, activation checkpointing and FSDP keep the module they wrap."""
_PARALLEL = ("DistributedDataParallel", "DataParallel")


def clean_name(name: str) -> str:
    """Return `name` without the parts that wrappers add.

    Example:
        >>> clean_name("net._orig_mod.0._checkpoint_wrapped_module.weight")
        'net.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPED_AS)


def named_parameters(root: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield name, layer and parameter of each parameter of `root`, tied ones once, in order."""
    seen: set[int] = set()
    for path, module in named_modules(root):
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield (f"{path}.{name}" if path else name), path, parameter


def named_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield clean path and module of `root` and everything below it, shared modules once."""
    parallel: list[str] = []
    for path, module in root.named_modules():
        if type(module).__name__ in _PARALLEL:
            parallel.append(f"{path}.module" if path else "module")
        clean = path
        for prefix in parallel:
            if clean == prefix or clean.startswith(prefix + "."):
                clean = prefix.removesuffix("module").removesuffix(".") + clean[len(prefix) :]
        yield clean_name(clean).strip("."), module


def is_metric(module: nn.Module) -> bool:
    """Whether `module` is a torchmetrics metric: it computes, but does not train."""
    return any(base.__module__.startswith("torchmetrics.") for base in type(module).__mro__)


def trained_modules(root: nn.Module) -> dict[int, str]:
    """Return the path of each module of `root` by ``id``, leaving out what metrics are made of."""
    named = list(named_modules(root))
    metrics = tuple(f"{path}." for path, module in named if is_metric(module))
    return {id(module): path for path, module in named if not path.startswith(metrics)}
