"""The pictures of `docs/learning-rate/schedules.md` are those that the tool draws."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
STORED = sorted(path.stem for path in (ROOT / "docs" / "images").glob("schedule-*.png"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools" / "schedules.py"
    spec = importlib.util.spec_from_file_location("schedules_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_every_picture_and_no_other(tool: ModuleType) -> None:
    page = (ROOT / "docs" / "learning-rate" / "schedules.md").read_text(encoding="utf-8")
    shown = re.findall(r"\.\./images/(schedule-[\w-]+)\.png", page)
    assert sorted(shown) == STORED == sorted(tool.PICTURES)


def test_a_picture_is_drawn_alike_each_time_and_is_small(tool: ModuleType, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, again = (tool.draw("schedule-groups", tmp_path / folder) for folder in "ab")
    assert first.read_bytes() == again.read_bytes()
    assert first.stat().st_size < 30_000


@pytest.mark.parametrize("name", STORED)
def test_a_stored_picture_shows_what_is_drawn_now(
    tool: ModuleType, tmp_path: Path, name: str
) -> None:
    """Not by its bytes, which another version of a font renderer changes."""
    drawn = tool.draw(name, tmp_path)
    with Image.open(drawn) as now, Image.open(ROOT / "docs" / "images" / drawn.name) as stored:
        assert now.size == stored.size, "run `python tools/schedules.py`"
        pairs = zip(small(now), small(stored), strict=True)
        apart = sum(abs(a - b) > 40 for a, b in pairs)
    assert apart <= 8, "run `python tools/schedules.py`"


def small(picture: Image.Image) -> list[int]:
    """Return the brightness of blocks of pixels."""
    grey = picture.convert("L")
    return list(grey.resize((grey.width // 5, grey.height // 5), Image.Resampling.BOX).tobytes())
