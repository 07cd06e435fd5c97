"""Where weights come from: modules, state dicts, and files that are read without running any code.

A pickle can run whatever its maker wants. Files of torch are therefore read with
``weights_only=True`` alone, and kinds that cannot be read so are refused before torch sees them.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.transfer.slots import slots_of

Source = nn.Module | Mapping[str, Any] | str | os.PathLike[str]

_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Under which Lightning, torch's tutorials, timm and DeepSpeed keep weights, the first counts."""
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_BLOCKED = re.compile(r"(?:GLOBAL|class|function) ([\w.]+)")


def read_source(source: Source, key: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return what a source is in a few words, and its state dict.

    Raises:
        TypeError: If it is none of the kinds of sources.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is unsafe, torn or of another kind, or holds no weights.
        ImportError: If it is a safetensors file, and safetensors is not installed.
    """
    if isinstance(source, nn.Module):
        _no_key(key, "a module")
        return f"a {type(source).__name__}", {s.name: s.tensor.detach() for s in slots_of(source)}
    if isinstance(source, Mapping):
        return _weights_in(source, key, "a state dict")
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "`source` must be a module, a state dict or the path of a file, got "
            f"{type(source).__name__}."
        )
    path = _file(source)
    name = path.name
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_ZIP):
        _check_archive(path)
        return _weights_in(_load(path, is_mapped=True), key, name)
    if _is_safetensors(start, path):
        _no_key(key, "a safetensors file")
        return name, _load_safetensors(path)
    if start.startswith(_PICKLE):
        return _weights_in(_load(path, is_mapped=False), key, name)
    raise ValueError(
        f"{name!r} is no file that `torch.save` or safetensors wrote, or it is torn: it begins "
        f"with {start[:8]!r}. Copy or download it again."
    )


def _no_key(key: str | None, what: str) -> None:
    if key is not None:
        raise ValueError(f"`key` chooses an entry of a checkpoint, and {what} has none: leave it.")


def _file(source: str | os.PathLike[str]) -> Path:
    """Follow links, as download caches need it, and let nothing through but a plain file."""
    text = os.fspath(source)
    if re.match(r"[a-z][a-z0-9+.-]+://", text):
        raise ValueError(f"`source` is the address {text!r}: download it, and name the file.")
    path = Path(text).expanduser()
    if path.is_dir():
        raise ValueError(
            f"`source` is the folder {text!r}: name one file in it; what was saved in shards must "
            "be consolidated into one file first."
        )
    if not path.exists():
        kind = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        raise FileNotFoundError(f"The file {text!r} {kind}: name one that holds weights.")
    if not path.is_file():
        raise ValueError(f"`source` is {text!r}, which is a device or a pipe: name a plain file.")
    if not path.stat().st_size:
        raise ValueError(f"The file {text!r} is empty: copy or download it again.")
    return path


def _check_archive(path: Path) -> None:
    """Refuse a zip file that is torn, that runs as a program, or that is packed to burst."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise ValueError(
            f"{path.name!r} is torn: it begins as a file of torch does, and its end is missing or "
            "damaged. Copy or download it again."
        ) from error
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise ValueError(
            f"{path.name!r} is a TorchScript program, which would have to be run: save the "
            "`state_dict()` of what you load with `torch.jit.load`, if you trust who made it."
        )
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > size:
        raise ValueError(
            f"{path.name!r} would unpack {size:,} bytes to {unpacked:,}, which `torch.save` never "
            "writes: ask who made it for a file that is not compressed."
        )


def _load(path: Path, *, is_mapped: bool) -> Any:
    try:
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_mapped)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise ValueError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    text = str(error)
    is_blocked = isinstance(error, pickle.UnpicklingError) and (
        "nsupported" in text or "GLOBAL" in text or "unrecognized" in text
    )
    blocked = _BLOCKED.search(text)
    if is_blocked and blocked:
        return (
            f"{path.name!r} holds a {blocked[1]}, and reading that could run code of whoever made "
            "the file: ask for safetensors or a plain state dict, or, if you trust the file, pass "
            "`torch.load(path, weights_only=False)` instead of the path."
        )
    if ".tar" in text:
        return f"{path.name!r} is of torch's oldest format: load and save it again."
    return (
        f"{path.name!r} is torn, or no file of torch ({type(error).__name__}): copy or download it "
        "again."
    )


def _is_safetensors(start: bytes, path: Path) -> bool:
    """Whether a file begins with the length of a header, and the header with a brace."""
    if path.suffix == ".safetensors":
        return True
    if len(start) < 9 or start[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return bool(length < path.stat().st_size)


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        import safetensors.torch  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name!r} needs safetensors, which cannot be imported ({error}): run "
            "`pip install 'lightning-diag[safetensors]'`."
        ) from None
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path.name!r} is torn, or no safetensors file ({error}): copy or download it again."
        ) from error


def _weights_in(found: Any, key: str | None, what: str) -> tuple[str, dict[str, Any]]:
    """Return the state dict within what was found, by its key or where one is known to be."""
    entries = found.items() if isinstance(found, Mapping) else ()
    inner = {str(name): value for name, value in entries if _is_state(value)}
    if key is None:
        key = next((known for known in _KEYS if known in inner), None)
    if key is None and _is_state(found):
        return what, dict(found)
    if key is None and len(inner) == 1:
        key = next(iter(inner))
    if key is None or key not in inner:
        asked = "" if key is None else f" under `key` {key!r}"
        choice = "take another" if not inner else f"choose by `key`: {', '.join(map(repr, inner))}"
        raise ValueError(f"There is no state dict in {what!r}{asked}: {choice}.")
    chosen = inner[key]
    if isinstance(chosen, nn.Module):
        return f"{what} ({key})", {s.name: s.tensor.detach() for s in slots_of(chosen)}
    return f"{what} ({key})", dict(chosen)


def _is_state(value: Any) -> bool:
    """Whether something holds tensors by name; some entries may be of another kind."""
    return isinstance(value, nn.Module) or (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and any(isinstance(entry, Tensor) for entry in value.values())
    )
