"""A last layer drawn from N(100, 10), behind layers drawn from N(0, 0.1).

All ten scores are sums of hundreds of large numbers: the first answers are wrong and sure of
themselves, and the gradients that go back through such weights wreck the layers before. No
learning rate suits all layers at once.
"""

from torch import nn
from two_runs import digits, train


def net(mean: float, std: float) -> nn.Sequential:
    """Return a network whose last layer is drawn from N(mean, std)."""
    first, second, last = nn.Linear(64, 100), nn.Linear(100, 100), nn.Linear(100, 10)
    for layer in (first, second):
        nn.init.normal_(layer.weight, 0.0, 0.1)
    nn.init.normal_(last.weight, mean, std)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


train("Sick: the last layer from N(100, 10)", net(100.0, 10.0), *digits(), lr=0.05)
train("Treated: the last layer from N(0, 0.1)", net(0.0, 0.1), *digits(), lr=0.05)
