"""Eight layers of sigmoids.

The slope of a sigmoid is at most 1/4, so each layer that a gradient passes on its way back leaves a
quarter of it or less: the first layers hardly move. ReLU's slope is 1 wherever it is not 0.
"""

from torch import nn
from two_runs import digits, train


def net(activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(64, 100), activation()]
    for _ in range(7):
        layers += [nn.Linear(100, 100), activation()]
    return nn.Sequential(*layers, nn.Linear(100, 10))


def he(net: nn.Sequential) -> nn.Sequential:
    """Draw the weights as He does for ReLU."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return net


train("Sick: sigmoids", net(nn.Sigmoid), *digits(), lr=0.05)
train("Treated: ReLU, with He's weights", he(net(nn.ReLU)), *digits(), lr=0.05)
