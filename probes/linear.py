"""Linear probe: multinomial logistic regression on standardised frozen features, by L-BFGS.

n = images, D = feature dimensions, Y = classes.
"""

from core.features import Features, mean_and_deviation
from core.randomness import Draws

import math

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # lambda, chosen on a held-out tenth of train


def fit(x: Tensor, y: Tensor, classes: int, strength: float, start: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Weights [Y, D] and biases [Y] that minimise mean cross-entropy + (lambda / 2) |W|^2; the biases are free.

    The objective is strictly convex in W, so a warm `start` changes the time and not the answer. It equals scikit-learn's
    LogisticRegression(C = 1 / (n lambda)).
    """
    weight, bias = start or (x.new_zeros(classes, x.shape[1]), x.new_zeros(classes))
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-12, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), y) + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def linear(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Top-1 and usable label information of every factor ("top1/FACTOR", "information/FACTOR") and their means.

    Usable information is H(Y) - CE in nats (Xu et al. 2020): H(Y) is the cross-entropy on test of the train split's class frequencies,
    CE that of the probe, so it is what a linear reader gains from the features. lambda is chosen by CE on a held-out tenth of train and
    the probe refitted on all of it; the test split is read once.
    """
    mean, deviation = mean_and_deviation(train.x)
    x, x_test = (train.x - mean) / deviation, (test.x - mean) / deviation
    order = Draws(seed, 0).permutation("linear probe", len(x))
    held, rest = order[: max(1, len(x) // 10)], order[max(1, len(x) // 10) :]
    top1, information, chosen = {}, {}, {}
    for column, (factor, classes) in enumerate(train.factors):
        y, y_test = train.y[:, column], test.y[:, column]
        best, start, kept = math.inf, None, None
        for strength in sorted(STRENGTHS, reverse=True):
            start = fit(x[rest], y[rest], classes, strength, start)
            value = F.cross_entropy(F.linear(x[held], *start), y[held]).item()
            if value < best:
                best, chosen[factor], kept = value, strength, start
        logits = F.linear(x_test, *fit(x, y, classes, chosen[factor], kept))
        frequency = (torch.bincount(y, minlength=classes).double() + 1) / (len(y) + classes)  # no class of probability zero
        entropy = -frequency.log()[y_test].mean().item()
        top1[factor] = (logits.argmax(1) == y_test).double().mean().item()
        information[factor] = entropy - F.cross_entropy(logits.double(), y_test).item()
    scores = {"top1": sum(top1.values()) / len(top1), "information": sum(information.values()) / len(information)}
    scores |= {f"top1/{factor}": value for factor, value in top1.items()} | {
        f"information/{factor}": value for factor, value in information.items()
    }
    return scores | {f"lambda/{factor}": value for factor, value in chosen.items()}
