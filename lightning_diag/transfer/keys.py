"""Keys of cached features: everything that decides what they are, in one hash.

A value is hashed by what it is made of, each part with its type and length, so that no two
different values run into one. What cannot be looked into is hashed by its type's name alone; the
samples themselves are hashed beside it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import types
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_diag._compat import LightningModule

FORMAT = 1
"""Of the files on disk: another one is another key."""
_OWN = "lightning_diag."
_LIGHTNING: Any = LightningModule
"""Its attributes count what has been done: what they do to features is seen in features alone."""


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes in the order of its elements, copied only if they lie elsewhere."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.is_conj() or flat.is_neg():
        flat = flat.resolve_conj().resolve_neg()
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


class Digest:
    """Hashes any values, one after the other.

    Example:
        >>> Digest().add([1, 2]).hex() == Digest().add([12]).hex()
        False
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._open: list[int] = []

    def hex(self) -> str:
        """Return the hash of all that was added, 32 hexadecimal digits."""
        return self._hash.hexdigest()

    def add(self, value: Any) -> Digest:
        """Add a value of any type."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, PurePath)):
            return self._part(type(value).__name__, repr(value).encode("utf-8", "backslashreplace"))
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._part("array", f"{value.dtype.str} {value.shape}".encode())
            return self._part("values", np.ascontiguousarray(value).tobytes())
        if id(value) in self._open:
            return self._part("again", str(self._open.index(id(value))).encode())
        self._open.append(id(value))
        try:
            return self._inside(value)
        finally:
            self._open.pop()

    def _part(self, kind: str, data: bytes | memoryview) -> Digest:
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._hash.update(f"{kind}:{size}:".encode())
        self._hash.update(data)
        return self

    def _tensor(self, value: Tensor) -> Digest:
        if value.layout != torch.strided or value.is_quantized:
            value = value.to_dense() if not value.is_quantized else value.int_repr()
        self._part("tensor", f"{value.dtype} {tuple(value.shape)}".encode())
        return self._part("values", bytes_of(value))

    def _inside(self, value: Any) -> Digest:
        kind = type(value)
        self._part("type", f"{kind.__module__}.{kind.__qualname__}".encode())
        if isinstance(value, Mapping):
            return self._all(part for pair in value.items() for part in pair)
        if isinstance(value, AbstractSet):
            return self._all(sorted(Digest().add(part).hex() for part in value))
        if isinstance(value, (list, tuple, np.ndarray)):
            return self._all(list(value))
        if isinstance(value, type):
            return self._part("class", f"{value.__module__}.{value.__qualname__}".encode())
        if isinstance(value, Enum):
            return self._part("member", value.name.encode())
        return self._object(value)

    def _all(self, parts: Iterable[Any]) -> Digest:
        parts = list(parts)
        self._part("length", str(len(parts)).encode())
        for part in parts:
            self.add(part)
        return self

    def _object(self, value: Any) -> Digest:
        if isinstance(value, functools.partial):
            return self._all([value.func, value.args, value.keywords])
        if isinstance(value, types.MethodType):
            return self._all([value.__func__, value.__self__])
        if isinstance(value, types.FunctionType):
            held = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
            self._all([value.__qualname__, value.__defaults__, value.__kwdefaults__, held])
            return self.code(value.__code__)
        if isinstance(value, nn.Module):
            return self.module(value)._all(value.named_children())
        if hasattr(value, "tobytes"):
            self._part("bytes", bytes(value.tobytes()))
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        inside = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        return self._all([{**inside, **getattr(value, "__dict__", {})}])

    def code(self, code: types.CodeType) -> Digest:
        """Add what a function does, not where it stands."""
        self._part("code", code.co_code)
        self._part("names", " ".join((*code.co_names, *code.co_varnames)).encode())
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.add(constant)
        return self

    def module(self, module: nn.Module) -> Digest:
        """Add a module: class and its code, settings, mode, own weights and buffers, hooks."""
        for kind in type(module).__mro__:
            if kind in (nn.Module, object):
                continue
            self._part("class", f"{kind.__module__}.{kind.__qualname__}".encode())
            for name, member in sorted(vars(kind).items()):
                if isinstance(member, types.FunctionType):
                    self._part("method", name.encode()).code(member.__code__)
        self._part("repr", module.extra_repr().encode())
        settings = {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("_") and name != "forward" and not isinstance(module, _LIGHTNING)
        }
        self._all(part for pair in sorted(settings.items()) for part in pair)
        for tensors in (module._parameters, module._buffers):
            self._all(part for pair in tensors.items() for part in pair)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for hook in hooks.values():
                self._hook(hook)
        return self

    def _hook(self, hook: Any) -> None:
        function = getattr(hook, "__func__", hook)
        code = getattr(function, "__code__", None)
        if not str(getattr(function, "__module__", "")).startswith(_OWN):
            self._part("hook", type(hook).__qualname__.encode())
            if code is not None:
                self.code(code)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def versions_of(modules: Iterable[nn.Module]) -> dict[str, str]:
    """Return the versions of torch and of the packages that some modules come from."""
    packages = {type(module).__module__.partition(".")[0] for module in modules}
    found = {"torch": str(torch.__version__), "format": str(FORMAT)}
    for package in sorted(packages - {"torch", "__main__"}):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def arithmetic(device: torch.device) -> dict[str, str]:
    """Return what decides the bits of a result besides the values: device, TF32, autocast."""
    kind = device.type
    return {
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else kind,
        "matmul": torch.get_float32_matmul_precision(),
        "tf32": str(torch.backends.cudnn.allow_tf32),
        "autocast": _autocast(kind),
        "dtype": str(torch.get_default_dtype()),
    }


def _autocast(kind: str) -> str:
    if hasattr(torch, "get_autocast_dtype"):  # from torch 2.4 on
        return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"
    if kind == "cpu":
        return str(torch.get_autocast_cpu_dtype()) if torch.is_autocast_cpu_enabled() else "off"
    return str(torch.get_autocast_gpu_dtype()) if torch.is_autocast_enabled() else "off"


def prefix_key(modules: Mapping[str, nn.Module], extra: Sequence[Tensor] = ()) -> str:
    """Return the hash of what runs before a frontier.

    Args:
        modules: By name; each is hashed without what is in its children.
        extra: Other tensors that are used there.
    """
    digest = Digest()
    for name in sorted(modules):
        digest.add(name).module(modules[name])
    for tensor in extra:
        digest.add(tensor)
    return digest.add(versions_of(modules.values())).hex()
