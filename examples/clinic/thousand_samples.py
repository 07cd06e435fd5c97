"""A thousand samples where it takes more, and labels of which some are wrong.

At first the network learns the pattern, and validation follows. Then it learns by heart what is
left, the wrong labels too, and the validation loss rises while the training loss falls on: the U.
"""

import torch
from sklearn.datasets import make_classification
from torch import nn
from torch.utils.data import TensorDataset
from two_runs import train

features, labels = make_classification(
    21_000, 20, n_informative=10, n_classes=4, class_sep=1.5, flip_y=0.1, random_state=0
)
x, y = torch.tensor(features).float(), torch.tensor(labels)
x = (x - x[:1000].mean(0)) / x[:1000].std(0)
held_out = TensorDataset(x[-1000:], y[-1000:])


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)
    )


for title, samples in (("Sick: 1,000 samples", 1000), ("Treated: 20,000 samples", 20_000)):
    data = TensorDataset(x[:samples], y[:samples])
    train(title, net(), data, held_out, lr=1e-3, optimizer=torch.optim.Adam, steps=600)
