"""Ten tanh layers of 500 units, with weights too small, too large, and right.

With a standard deviation of 0.01 each layer's output is a quarter of its input's size, and behind
ten layers nothing is left. With 1 every unit stands at -1 or +1, where tanh is flat. Xavier's
weights, of variance 1 / inputs, keep the spread alive through all ten. (CS231n shows this; Glorot
and Bengio, 2010, explain it.)
"""

from torch import nn
from two_runs import digits, train


def tanh_net() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(64, 500), nn.Tanh()]
    for _ in range(9):
        layers += [nn.Linear(500, 500), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(500, 10))


def drawn(net: nn.Sequential, std: float | None) -> nn.Sequential:
    """Draw all weights from N(0, std), or as Xavier Glorot does."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            if std is None:
                nn.init.xavier_normal_(layer.weight)
            else:
                nn.init.normal_(layer.weight, 0.0, std)
            nn.init.zeros_(layer.bias)
    return net


train("Sick: standard deviation 0.01", drawn(tanh_net(), 0.01), *digits(), lr=0.1, steps=200)
train("Sick: standard deviation 1", drawn(tanh_net(), 1.0), *digits(), lr=0.1, steps=200)
train("Treated: Xavier's weights", drawn(tanh_net(), None), *digits(), lr=0.1, steps=200)
