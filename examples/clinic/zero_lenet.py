"""A LeNet that starts with all weights at zero.

Whatever the picture, every unit puts out 0, and all units of a layer get the same gradient, which
is 0 too but for the last bias. The network learns how frequent the digits are, and nothing else.
"""

from torch import nn
from two_runs import digits, train


def lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


zeros = lenet()
for parameter in zeros.parameters():
    nn.init.zeros_(parameter)

train("Sick: all weights are 0", zeros, *digits(), lr=0.1)
train("Treated: PyTorch's random weights", lenet(), *digits(), lr=0.1)
