"""Files are read without running any code, and what cannot be read so is refused (T1)."""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import load_pretrained


@pytest.fixture
def safetensors() -> Any:
    return pytest.importorskip("safetensors.torch")


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def is_loaded(mine: nn.Module, source: nn.Module) -> bool:
    other = source.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in mine.state_dict().items())


class Touch:
    """Pickles as a call that makes a file: what a malicious file would do."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


class Settings:
    """Stands for what people save with their hyperparameters."""


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_files_of_torch_are_read(is_zip: bool, wrap: Any, tmp_path: Path) -> None:
    source, mine = net(), net()
    path = tmp_path / "w.pt"
    torch.save(wrap(source.state_dict()), path, _use_new_zipfile_serialization=is_zip)
    report = load_pretrained(mine, path, strict="error")
    assert is_loaded(mine, source)
    assert report.source in {"w.pt", "w.pt (state_dict)"}
    load_pretrained(net(), str(path), strict="error")


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path, safetensors: Any) -> None:
    source = net()
    for name in ("w.safetensors", "weights.bin"):
        safetensors.save_file(source.state_dict(), tmp_path / name)
        mine = net()
        assert load_pretrained(mine, tmp_path / name, strict="error").source == name
        assert is_loaded(mine, source)
    with pytest.raises(ValueError, match="and a safetensors file has none"):
        load_pretrained(net(), tmp_path / name, key="model")


def test_without_safetensors_the_command_to_install_it_is_told(
    tmp_path: Path, safetensors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors.save_file(net().state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'lightning-diag[safetensors]'")):
        load_pretrained(net(), tmp_path / "w.safetensors")


def test_a_checkpoint_of_lightning_is_read(lightning: ModuleType, tmp_path: Path) -> None:
    class Task(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = net()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = self.model(batch[0]).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    task = Task()
    trainer.fit(task, DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    mine = net()
    report = load_pretrained(mine, tmp_path / "last.ckpt", strict="error")
    assert is_loaded(mine, task.model)
    assert str(report).splitlines()[1] == "  names: 'model.' removed"
    again = Task()
    load_pretrained(again, tmp_path / "last.ckpt", strict="error")
    assert is_loaded(again, task)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(is_zip: bool, tmp_path: Path) -> None:
    source, path, harm = net(), tmp_path / "evil.pt", tmp_path / "harm"
    held = {"state_dict": source.state_dict(), "hyper_parameters": Touch(str(harm))}
    torch.save(held, path, _use_new_zipfile_serialization=is_zip)
    mine = net()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"'evil\.pt' holds a (posix|nt)\.mkdir, and reading"
    ) as found:
        load_pretrained(mine, path)
    assert "pass `torch.load(path, weights_only=False)` instead of the path." in str(found.value)
    assert "\n" not in str(found.value)
    assert not harm.exists()
    assert all(torch.equal(t, before[name]) for name, t in mine.state_dict().items())


def test_what_the_refusal_advises_works(tmp_path: Path) -> None:
    source, mine = net(), net()
    torch.save({"state_dict": source.state_dict(), "settings": Settings()}, "w.pt")
    with pytest.raises(ValueError, match=r"holds a [\w.]+Settings, and reading that could run"):
        load_pretrained(mine, "w.pt")
    load_pretrained(mine, torch.load("w.pt", weights_only=False), strict="error")
    assert is_loaded(mine, source)
    third = net()
    load_pretrained(third, {"model": source, "epoch": 3}, strict="error")
    assert is_loaded(third, source)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_is_refused_and_runs_nothing(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Touch(str(tmp_path / "harm")), protocol))
    with pytest.raises(ValueError, match=r"'w\.pkl' (holds a|is torn)"):
        load_pretrained(net(), tmp_path / "w.pkl")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_torn_file_of_torch_is_refused_in_one_sentence(
    is_zip: bool, share: float, tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    torch.save(net().state_dict(), path, _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(share * len(data)))])
    with pytest.raises(ValueError, match=r"torn.*[Cc]opy or download it again\.$") as found:
        load_pretrained(net(), path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9, 0.999])
def test_a_torn_safetensors_file_is_refused_in_one_sentence(
    share: float, tmp_path: Path, safetensors: Any
) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.save_file(net().state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(share * len(data)))])
    with pytest.raises(ValueError, match=r"torn.*copy or download it again\.$") as found:
        load_pretrained(net(), path)
    assert "\n" not in str(found.value)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    page = b"<!DOCTYPE html><html>Sign in to download</html>"
    for data in (page, tar.getvalue(), bytes(100), b"{}", b"PK\x03\x04"):
        (tmp_path / "w.pt").write_bytes(data)
        with pytest.raises(ValueError, match=r"torn.*\. Copy or download it again\.$") as found:
            load_pretrained(net(), tmp_path / "w.pt")
        assert "\n" not in str(found.value)


def test_a_huge_file_of_zeros_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("w.pt", "w.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 38)
        with pytest.raises(ValueError, match="torn"):
            load_pretrained(net(), tmp_path / name)


def test_a_file_that_is_packed_to_burst_is_refused(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(1_000_000)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as old,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"'bomb.pt' would unpack [\d,]+ bytes to 4,0\d\d,\d+"):
        load_pretrained(net(), tmp_path / "bomb.pt")


def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr("w/constants.pkl", b"\x80\x02).")
    with pytest.raises(ValueError, match=r"'w.pt' is a TorchScript program"):
        load_pretrained(net(), tmp_path / "w.pt")


def test_links_are_followed_and_dead_ones_are_refused(tmp_path: Path) -> None:
    """Download caches keep files under hashes, and links to them under their names."""
    source, mine = net(), net()
    torch.save(source.state_dict(), tmp_path / "0a1b2c")
    (tmp_path / "w.pt").symlink_to(tmp_path / "0a1b2c")
    load_pretrained(mine, tmp_path / "w.pt", strict="error")
    assert is_loaded(mine, source)
    (tmp_path / "0a1b2c").unlink()
    with pytest.raises(FileNotFoundError, match=r"w\.pt' is a link that leads nowhere"):
        load_pretrained(mine, tmp_path / "w.pt")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileNotFoundError, match="loop' is a link that leads nowhere"):
        load_pretrained(mine, tmp_path / "loop")


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'gone\.pt' does not exist"):
        load_pretrained(net(), "gone.pt")
    with pytest.raises(ValueError, match="is the folder"):
        load_pretrained(net(), tmp_path)
    with pytest.raises(ValueError, match=r"is the address 'https://example\.org/w\.pt': download"):
        load_pretrained(net(), "https://example.org/w.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ValueError, match="is empty: copy or download it again"):
        load_pretrained(net(), tmp_path / "empty.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="which is a device or a pipe"):
        load_pretrained(net(), tmp_path / "pipe")


def test_the_weights_of_a_checkpoint_are_found_or_asked_for() -> None:
    source, other = net(), net()
    mine = net()
    for key in ("state_dict", "model_state_dict", "model", "module", "weights"):
        report = load_pretrained(mine, {key: source.state_dict(), "epoch": 1}, strict="error")
        assert report.source == f"a state dict ({key})"
    both = {"ema": other.state_dict(), "model": source.state_dict(), "lr": torch.ones(1)}
    assert load_pretrained(mine, both).source.endswith("(model)")
    assert is_loaded(mine, source)
    load_pretrained(mine, both, key="ema")
    assert is_loaded(mine, other)
    with pytest.raises(ValueError, match="under `key` 'swa': choose by `key`: 'ema', 'model'"):
        load_pretrained(mine, both, key="swa")
    with pytest.raises(ValueError, match="choose by `key`: 'a', 'b'"):
        load_pretrained(mine, {"a": source.state_dict(), "b": other.state_dict()})
    with pytest.raises(ValueError, match="There is no state dict in 'a state dict': take another"):
        load_pretrained(mine, {"epoch": 3})


def test_a_file_that_holds_no_weights_says_so(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"There is no state dict in 'w\.pt': take another"):
        load_pretrained(net(), tmp_path / "w.pt")


def test_a_file_stays_as_it_is_whatever_is_done_to_the_module(tmp_path: Path) -> None:
    """Files are mapped to memory, and numbers copied out of it."""
    source = net()
    state = {**source.state_dict(), "optimizer": torch.zeros(1).expand(8)}
    torch.save(state, tmp_path / "w.pt")
    mine = net()
    report = load_pretrained(mine, tmp_path / "w.pt")
    assert is_loaded(mine, source)
    assert [each.name for each in report.unexpected] == ["optimizer"]
    with torch.no_grad():
        mine.get_parameter("0.weight").zero_()
    assert torch.load(tmp_path / "w.pt", weights_only=True)["0.weight"].any()
