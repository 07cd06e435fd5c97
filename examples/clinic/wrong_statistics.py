"""Validation that is standardised by the wrong statistics.

Mean and standard deviation belong to the training set, are worked out once, and are applied to
every other set. Here those for validation were worked out on pixels from 0 to 16, and are applied
to pixels from 0 to 1.

Not every such mistake can be seen. If each set is standardised by its own statistics, both have
mean 0 and standard deviation 1 whatever they were before, and Doctor, who sees what the network is
given, has nothing to compare.
"""

from torch import nn
from torch.utils.data import TensorDataset
from two_runs import digits, pixels, train


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


train_set, held_out = digits()
images, labels = pixels()[1].tensors
raw = 16 * images
wrong = TensorDataset((images - raw.mean()) / raw.std(), labels)

train("Sick: validation by other statistics", net(), train_set, wrong, lr=0.1)
train("Treated: both by those of training", net(), train_set, held_out, lr=0.1)
