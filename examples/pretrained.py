"""A vision transformer's weights in a model for other pictures: `pip install transformers`.

Nothing is downloaded: the "pre-trained" model is built from its config. With real weights, give
`ViTModel.from_pretrained(...)` as the source, or the path of a file.
"""

import sys
import tempfile
from pathlib import Path

from torch import nn

from lightning_diag import load_pretrained

try:
    from safetensors.torch import save_file
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        ViTConfig,
        ViTForImageClassification,
        ViTModel,
    )
except ImportError:
    print("Skipped: this example needs transformers (pip install transformers).")
    sys.exit()

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "patch_size": 8}
theirs = ViTForImageClassification(
    ViTConfig(**SIZES, intermediate_size=96, image_size=32, num_channels=3, num_labels=1000)
)


class Scans(nn.Module):
    """Larger pictures of one channel, in five classes."""

    def __init__(self) -> None:
        super().__init__()
        config = ViTConfig(**SIZES, intermediate_size=96, image_size=64, num_channels=1)
        self.backbone = ViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(48, 5)


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "model.safetensors")
    save_file(theirs.state_dict(), file)
    print(load_pretrained(Scans(), file, positions="bicubic"))
