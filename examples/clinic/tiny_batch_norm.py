"""Batch norm over two samples.

Each layer standardises by the mean and the deviation of the batch. Of two samples these say next to
nothing: behind batch norm the larger is +1 and the smaller is -1, whatever they were. Evaluation
then uses running averages, and so another network than the one that was trained.
"""

from torch import nn
from two_runs import digits, train


def net(norm: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 100), norm(100), nn.ReLU(), nn.Linear(100, 100), norm(100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


train("Sick: batch norm", net(nn.BatchNorm1d), *digits(), lr=0.005, batch_size=2, steps=800)
train("Treated: layer norm", net(nn.LayerNorm), *digits(), lr=0.005, batch_size=2, steps=800)
