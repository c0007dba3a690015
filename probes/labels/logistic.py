"""Multinomial logistic regression at many strengths at once, by L-BFGS that knows the covariance of
the features.

n = images, D = feature dimensions, Y = classes, S = strengths, P = Y (D + 1) parameters.
"""

from core.matmul import matmul

import torch
from torch import Tensor

HISTORY, MOST_STEPS, MOST_HALVINGS = 10, 200, 20
GRADIENT, ARMIJO = 1e-6, 1e-4  # largest gradient at which a fit is done; slope of the line search
BLOCK = (
    2**22
    # features or logits at a time; both are read more than once, and 16 MiB of floats stay in a
    # cache
)


class Logistic:
    """Minimises mean cross-entropy + (lambda / 2) |W|^2 with free biases, for S strengths lambda in
    one pass over x per step.

    The objective is strictly convex in W, so the start changes the time and not the answer, which
    equals that of scikit-learn's LogisticRegression(C = 1 / (n lambda)). Steps are taken in the
    eigenbasis of x'x / n, where the curvature at the start is diagonal: (eigenvalue / Y + lambda);
    that is what L-BFGS takes for its first guess of the inverse, and a few steps do the work of
    hundreds.
    """

    def __init__(self, x: Tensor):
        self.x = x
        values, self.basis = torch.linalg.eigh(
            matmul(x.T, x.T) / len(x)
        )  # the penalty does not change under rotation
        self.values = values.clamp(min=0)

    @torch.no_grad()
    def fit(
        self,
        y: Tensor,
        classes: int,
        strengths: tuple[float, ...],
        rows: slice = slice(None),
        start: Tensor | None = None,
        rough: float = 0.0,
    ) -> Tensor:
        """Parameters [S, Y, D + 1] in the eigenbasis, biases last; from labels y int64 [n] of these
        rows alone.

        A fit ends where a step lowers the objective by less than `rough` of it, or by nothing but
        rounding.
        """
        x, y = self.x[rows], y[rows]
        dimensions, penalty = x.shape[1], x.new_tensor(strengths)
        w = x.new_zeros(len(strengths), classes, dimensions + 1) if start is None else start.clone()
        shrunk = torch.cat(
            [penalty[:, None].expand(-1, dimensions), penalty.new_zeros(len(penalty), 1)], 1
        )[:, None]  # [S, 1, D + 1]
        curvature = torch.cat([self.values, self.values.new_ones(1)]) / classes
        inverse = 1 / (curvature + shrunk).clamp(min=1e-12)
        value, gradient = self._evaluate(x, y, w, shrunk)
        pairs: list[tuple[Tensor, Tensor]] = []
        running = torch.arange(len(strengths), device=x.device)  # the strengths that are not done
        for _ in range(MOST_STEPS):
            direction = -_times_inverse(gradient, pairs, inverse)
            slope = _dot(gradient, direction)
            step, moved, value_next, gradient_next = (
                torch.ones_like(penalty),
                w.clone(),
                value.clone(),
                gradient.clone(),
            )
            trying = running
            for _ in range(MOST_HALVINGS):
                moved[trying] = w[trying] + step[trying, None, None] * direction[trying]
                value_next[trying], gradient_next[trying] = self._evaluate(
                    x, y, moved[trying], shrunk[trying]
                )
                allowed = value[trying] + ARMIJO * step[trying] * slope[trying] + 1e-12
                trying = trying[value_next[trying] > allowed]
                if len(trying) == 0:
                    break
                step[trying] /= 2
            moved[trying], value_next[trying], gradient_next[trying] = (
                w[trying],
                value[trying],
                gradient[trying],
            )  # no descent: rounding
            pairs = [*pairs, (moved - w, gradient_next - gradient)][-HISTORY:]
            least = max(
                rough, torch.finfo(x.dtype).eps / 10
            )  # the mean over images is taken in float64
            done = (value - value_next <= least * value) | (
                gradient_next.abs().amax((1, 2)) <= GRADIENT
            )
            w, value, gradient = moved, value_next, gradient_next
            running = running[~done[running]]
            if len(running) == 0:
                break
        return w

    def parameters(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [S, Y, D] for the features as they came, and biases [S, Y]."""
        return w[..., :-1] @ self.basis.T, w[..., -1]

    def _evaluate(self, x: Tensor, y: Tensor, w: Tensor, shrunk: Tensor) -> tuple[Tensor, Tensor]:
        """Objective float64 [S] and gradient [S, Y, D + 1] in the eigenbasis, in blocks of
        images.
        """
        s, classes, dimensions = w.shape
        weight, bias = self.parameters(w)
        value, gradient, biases = (
            x.new_zeros(s, dtype=torch.float64),
            torch.zeros_like(weight),
            torch.zeros_like(bias),
        )
        block = max(1, BLOCK // max(dimensions, s * classes))
        for images, labels in zip(x.split(block), y.split(block), strict=True):
            logits = matmul(images, weight.flatten(0, 1), bias.flatten()).view(
                len(images), s, classes
            )
            logits -= logits.amax(2, keepdim=True)
            own = labels[:, None, None].expand(-1, s, 1)
            likelihood = logits.gather(2, own)[..., 0]
            share = logits.exp_()
            total = share.sum(2, keepdim=True)
            value += (total[..., 0].log() - likelihood).sum(0, dtype=torch.float64)
            share.div_(total).scatter_add_(2, own, share.new_tensor(-1.0).expand(own.shape))
            gradient += matmul(share.flatten(1).T, images.T).view_as(weight)
            biases += share.sum(0)
        penalty = (shrunk * w.double().square()).sum((1, 2)) / 2
        rotated = torch.cat([gradient @ self.basis, biases[..., None]], 2)
        return value / len(x) + penalty, rotated.div_(len(x)) + shrunk * w


def _times_inverse(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]], inverse: Tensor) -> Tensor:
    """L-BFGS's inverse Hessian times the gradient, for each strength by itself (Nocedal & Wright
    2006, algorithm 7.4).
    """
    made, shares = gradient.clone(), []
    kept = [(step, change, _dot(step, change)) for step, change in pairs]
    for step, change, curvature in reversed(kept):
        share = torch.where(
            curvature > 0, _dot(step, made) / curvature, 0.0
        )  # no curvature: a strength that did not move
        made -= share[:, None, None] * change
        shares.append(share)
    made = inverse * made
    if kept:
        _, change, curvature = kept[-1]
        scale = torch.where(curvature > 0, curvature / _dot(change, inverse * change), 1.0)
        made *= scale[:, None, None]
    for (step, change, curvature), share in zip(kept, reversed(shares), strict=True):
        made += (share - torch.where(curvature > 0, _dot(change, made) / curvature, 0.0))[
            :, None, None
        ] * step
    return made


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))
