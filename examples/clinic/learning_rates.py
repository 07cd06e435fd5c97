"""The same network at four learning rates, by Adam, whose steps are about as long as its rate.

At 1e-6 the weights hardly move. At 1e6 the first step throws them out of all proportion. Just too
high is harder to tell: the loss does come down, but on the way the steps kill ReLU units, which
then put out 0 for every digit, get no gradient, and never come back.
"""

import torch
from torch import nn
from two_runs import digits, train


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


for title, lr in (
    ("Sick: 1e-6", 1e-6),
    ("Sick: 1e6", 1e6),
    ("Sick: 0.025, just too high", 0.025),
    ("Treated: 1e-3", 1e-3),
):
    train(title, net(), *digits(), lr=lr, optimizer=torch.optim.Adam)
