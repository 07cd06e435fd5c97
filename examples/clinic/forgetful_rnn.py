"""A plain recurrent network that has to remember the beginning of a long sequence.

What to answer stands in the first of 40 positions; little but noise follows. On its way back the
gradient passes the same weights 40 times. PyTorch draws them so small that it fades each time, and
the network never learns what the beginning was for (Bengio et al., 1994). Orthogonal weights leave
its length as it is (Saxe et al., 2014); the gates of an LSTM or a GRU are the other way out.

What happens inside a cell is not visible. Doctor counts its calls, and the weights say what each
leaves of a state at most: 0.58, and after 40 of them nothing.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from two_runs import train

LENGTH = 40
x = 0.05 * torch.randn(2400, LENGTH, 2)
x[:, 0] *= 20
y = (x[:, 0, 0] > 0).long() + 2 * (x[:, 0, 1] > 0).long()
data, held_out = TensorDataset(x[:2000], y[:2000]), TensorDataset(x[2000:], y[2000:])


class Reader(nn.Module):
    """Reads a sequence position by position, and answers at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(2, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 64)
        for position in range(LENGTH):
            state = self.cell(x[:, position], state)
        answer: Tensor = self.head(state)
        return answer


plain, orthogonal = Reader(), Reader()
nn.init.orthogonal_(orthogonal.cell.weight_hh)

# Clipped, as recurrent networks mostly are.
for title, net in (
    ("Sick: PyTorch's recurrent weights", plain),
    ("Treated: orthogonal recurrent weights", orthogonal),
):
    train(title, net, data, held_out, lr=0.03, clip=0.5)
