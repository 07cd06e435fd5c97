"""Xavier's weights under ReLU, and He's.

Xavier's variance of 1 / inputs keeps the spread through tanh. A ReLU drops half of its input, and
with it half of the variance: over twenty layers that leaves 2^-20. He's variance of 2 / inputs
makes up for it (He et al., 2015).
"""

from torch import nn
from two_runs import digits, train


def relu_net(draw: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(20):
        layers += [nn.Linear(64 if i == 0 else 100, 100), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(100, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
            if draw == "He":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(layer.weight)
    return net


train("Sick: Xavier's weights", relu_net("Xavier"), *digits(), lr=0.02)
train("Treated: He's weights", relu_net("He"), *digits(), lr=0.02)
