"""Pixels as they lie in the file, from 0 to 255.

The first layer's outputs, and its gradients, are hundreds of times larger than the weights were
drawn for; and since no pixel is negative, all samples push a unit the same way.
"""

from torch import nn
from torch.utils.data import TensorDataset
from two_runs import digits, pixels, train


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )


train_set, held_out = (TensorDataset(255 * x, y) for x, y in (part.tensors for part in pixels()))
train("Sick: pixels from 0 to 255", net(), train_set, held_out, lr=0.1)
train("Treated: mean 0, standard deviation 1", net(), *digits(), lr=0.1)
