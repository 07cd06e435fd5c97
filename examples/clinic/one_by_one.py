"""One sample a step, at the learning rate of a whole batch.

The gradient of one sample points where that sample wants to go. A batch of 64 averages most of that
away; alone, each step undoes a part of the last one, and the loss keeps jumping about.
"""

from torch import nn
from two_runs import digits, train


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


train("Sick: batches of 1", net(), *digits(), lr=0.1, batch_size=1, steps=1000)
train("Treated: batches of 64", net(), *digits(), lr=0.1, batch_size=64, steps=1000)
