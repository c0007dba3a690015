"""AdamW for small networks that are trained inside a probe."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's defaults


class AdamW:
    """Takes the steps of `torch.optim.AdamW` (Loshchilov & Hutter 2019) by the same torch function.

    torch's own class imports the compiler at its first use, which takes a second.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> optimizer = AdamW([weight], weight_decay=0.0)
    >>> weight.sum().backward()
    >>> optimizer.step(lr=0.5)
    >>> [round(x, 4) for x in weight.tolist()]
    [0.5, 0.5]
    """

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float):
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self.first, self.second = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.steps = [torch.tensor(0.0) for _ in self.parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move each parameter that has a gradient."""
        rows = zip(self.parameters, self.first, self.second, self.steps, strict=True)
        moved = [(p, p.grad, m, v, t) for p, m, v, t in rows if p.grad is not None]
        parameters, grads, first, second, steps = map(list, zip(*moved, strict=True))
        adamw(
            *(parameters, grads, first, second, [], steps),
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )
