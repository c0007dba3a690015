"""The interface of critics for cross-fitting, and the critics of vectors.

n = pairs, E = critics that are trained in parallel, B = batch, P = code dimensions, d = features.
"""

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from core.console import steps_left
from probes.samples.noise import CELLS, Cells
from probes.samples.normal_scores import features, normal_scores
from probes.samples.start import start

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
HIDDEN, CODES = 64, 32
# with a decay of 0.01, critics of five columns fit their training pairs and little else
BATCH, RATE, DECAY = 300, 3e-3, 1.0
CHECK_EVERY, PATIENCE = 20, 5
STEPS_A_PAIR = 0.2  # steps for each training pair: 600 steps for 3,000 pairs
LEAST_STEPS, MOST_STEPS = 600, 3000


class Plan(NamedTuple):
    """How critics are trained. After every `check_every` steps they are tested on held-out folds.
    Training ends after `patience` tests without progress.
    """

    steps: int
    batch: int = BATCH
    rate: float = RATE
    decay: float = DECAY
    check_every: int = CHECK_EVERY
    patience: int = PATIENCE


class Panel(nn.Module):
    """E critics f(x, y) = <q(x), k(y)> with the pairs that they read."""

    critics: int
    plan: Plan

    @abstractmethod
    def codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [E, B, P] of both sides of the rows [E, B] of each critic."""

    def scores(self, rows: Tensor) -> Tensor:
        """f(x_i, y_j) of the rows [E, B] of each critic, [E, B, B]."""
        q, k = self.codes(rows)
        return q @ k.mT

    @abstractmethod
    def keep(self, better: Tensor, kept: dict[str, Tensor]) -> None:
        """Put the weights of the critics for which `better` [E] is true into `kept`."""


class Vectors(Panel):
    """Critics of x [n, dx], y [n, dy]. Each of the E critics is a closed form, fitted to its own
    training pairs, plus a small network.
    """

    def __init__(self, x: Array, y: Array, used: list[Rows], random: np.random.Generator):
        super().__init__()
        self.critics = len(used)
        self.sides, self.squares = _read(x, y, used, random)
        self.towers = Towers(self.critics, self.sides[0].shape[2], self.sides[1].shape[2])
        least = min(map(len, used))
        steps = int(min(MOST_STEPS, max(LEAST_STEPS, STEPS_A_PAIR * least)))
        self.plan = Plan(steps, min(BATCH, least))

    def codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self._towers(rows)
        if self.squares is None:
            return q, k
        each = torch.arange(self.critics)[:, None]
        cell_x, cell_y = (cells[each, rows].long() for cells in self.squares.cells)
        logs = self.squares.logs
        one = torch.eye(logs.shape[2])[cell_y]
        return torch.cat([q, logs[each, cell_x]], 2), torch.cat([k, one], 2)

    def scores(self, rows: Tensor) -> Tensor:
        q, k = self._towers(rows)
        if self.squares is None:
            return q @ k.mT
        each = torch.arange(self.critics)[:, None, None]
        cell_x, cell_y = (cells[each[:, 0], rows].long() for cells in self.squares.cells)
        return q @ k.mT + self.squares.logs[each, cell_x[:, :, None], cell_y[:, None]]

    def _towers(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        each = torch.arange(self.critics)[:, None]
        q, k = self.towers(*(side[each, rows] for side in self.sides))
        return q, k

    def keep(self, better: Tensor, kept: dict[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            kept[name][better] = tensor[better]


class Towers(nn.Module):
    """E critics f(x, y) = base + <g(x), h(y)> + a(x) + b(y), each with its own weights.

    `base` is the closed form (`probes.samples.start`); the rest starts at zero.
    """

    def __init__(self, critics: int, dx: int, dy: int):
        super().__init__()
        self.of_x, self.of_y = (
            nn.ModuleList(
                Stacked(critics, *widths)
                for widths in ((d, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CODES + 1))
            )
            for d in (dx, dy)
        )
        with torch.no_grad():
            self.of_x[-1].weight[..., -1] = 0  # type: ignore[index, operator]
            self.of_y[-1].weight.zero_()  # type: ignore[operator, union-attr]

    def forward(
        self, x: Tensor, y: Tensor, base_x: Tensor, base_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Codes [E, B, P] of both sides."""
        g, h = _through(self.of_x, x), _through(self.of_y, y)
        one = torch.ones_like(g[..., :1])
        of_y = torch.cat([h[..., :-1], one, h[..., -1:], base_y], -1)
        return torch.cat([g, one, base_x], -1), of_y


class Stacked(nn.Module):
    """A linear map for each of E critics, [E, B, in] to [E, B, out]."""

    def __init__(self, critics: int, width_in: int, width_out: int):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(critics, width_in, width_out) * math.sqrt(2 / width_in)
        )
        self.bias = nn.Parameter(torch.zeros(critics, 1, width_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x = F.silu(layer(x))
    return layers[-1](x)


class Squares(NamedTuple):
    """A table of each critic, logs [E, G, G], and the cells of all pairs in it, [E, n] each."""

    logs: Tensor
    cells: tuple[Tensor, Tensor]


def _read(
    x: Array, y: Array, used: list[Rows], random: np.random.Generator
) -> tuple[list[Tensor], Squares | None]:
    """The input of each critic for all pairs: features and closed form of x and y, [E, n, d] each.
    They are fitted on the critic's training rows. The second result holds tables, or is None if no
    critic starts from a table.
    """
    made, tables = [], []
    for place in steps_left(len(used), "first fit of critics", "critics"):
        rows = used[place]
        scores_x, scores_y = normal_scores(x[rows], x), normal_scores(y[rows], y)
        begun = start(x, y, rows, random)
        read = (features(x[rows], x, scores_x), features(y[rows], y, scores_y))
        more = (np.concatenate(pair, 1) for pair in zip(read, begun.features, strict=True))
        made.append((*more, *begun.codes))
        tables.append(begun.cells)
    sides = [_stacked([made_of[side] for made_of in made]) for side in range(4)]
    if not any(tables):
        return sides, None
    none = Cells(np.zeros((CELLS, CELLS)), *np.zeros((2, len(x)), np.int16))
    each = [table or none for table in tables]
    logs = torch.stack([torch.from_numpy(table.logs).float() for table in each])
    cells = [torch.from_numpy(np.stack([table[side] for table in each])) for side in (1, 2)]
    return sides, Squares(logs, (cells[0], cells[1]))


def _stacked(arrays: list[Array]) -> Tensor:
    """[E, n, d] of arrays [n, d_e], filled up with zeros."""
    width = max(array.shape[1] for array in arrays)
    tensors = (torch.from_numpy(array).float() for array in arrays)
    return torch.stack([F.pad(x, (0, width - x.shape[1])) for x in tensors])
