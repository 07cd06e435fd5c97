"""The example of loading runs where transformers is, and says so where it is not (T1)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import lightning_diag

HOME = Path(lightning_diag.__file__).resolve().parent.parent


def test_the_example_loads_all_but_the_head_or_says_what_it_needs(root: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(root / "examples" / "pretrained.py")],
        env={**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    if importlib.util.find_spec("transformers") is None:
        assert "needs transformers (pip install transformers)" in result.stdout
    else:
        assert "  left out (2), left as constructed\n    classifier.weight" in result.stdout
        assert "  reshaped (2)\n    backbone.embeddings.position_embeddings" in result.stdout
