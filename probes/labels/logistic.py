"""Multinomial logistic regression for several penalties at once, by L-BFGS preconditioned with the
covariance of the features.

n = images, D = feature dimensions, Y = classes, S = strengths, P = Y (D + 1) parameters.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.matmul import matmul

Array = NDArray[np.float64]

HISTORY, MOST_STEPS, MOST_HALVINGS = 10, 200, 20
FLOOR = 0.1  # nats; for a smaller objective, the tolerance is relative to this
GRADIENT = 1e-6  # the largest component of the gradient of a finished fit
ARMIJO = 1e-4  # the least fall of the objective in a step, as a share of its slope
MOST_INNER = 1000  # steps of conjugate gradients in one step of Newton's method
DENSE = 128  # parameters; up to this number, Newton's method solves a dense system
BLOCK = 2**22  # features or logits at a time: 16 MiB of floats stay in the cache between two reads


class Point(NamedTuple):
    """Parameters of each strength, with the objective and its gradient."""

    w: Tensor  # [S, Y, D + 1]
    value: Tensor  # float64 [S]
    gradient: Tensor  # [S, Y, D + 1]


class Logistic:
    """Minimises mean cross-entropy + (lambda / 2) |W|^2 for S strengths lambda. Each evaluation
    reads x once for all of them. Biases are not penalised.

    The objective is strictly convex in W. So the starting point changes the time, but not the
    result. The result equals that of scikit-learn's LogisticRegression(C = 1 / (n lambda)). Steps
    are taken in the eigenbasis of x'x / n. There the initial curvature is diagonal, (eigenvalue / Y
    + lambda), and L-BFGS starts from its inverse, which saves hundreds of steps.
    """

    def __init__(self, x: Tensor):
        self.x = x
        values, basis = _eigenbasis((matmul(x.T, x.T) / len(x)).double())
        # the penalty does not change under rotation
        self.values, self.basis = values.clamp(min=0).to(x.dtype), basis.to(x.dtype)

    @torch.no_grad()
    def fit(
        self,
        y: Tensor,
        classes: int,
        strengths: tuple[float, ...],
        rows: slice | Tensor = slice(None),
        start: Tensor | None = None,
        rough: float = 0.0,
    ) -> Tensor:
        """Parameters [S, Y, D + 1] in the eigenbasis, biases last, fitted to these rows alone;
        labels y are int64 [n].

        A fit ends when a step lowers the objective by less than `rough` times its value, or by no
        more than a rounding error. It also ends when no component of the gradient exceeds 1e-6. A
        fit in float64, for few images, ends when the gradient is zero up to rounding. For few
        images the objective is very flat: two fits whose objectives agree to one part in a million
        may still differ by 0.1 nats on test images.
        """
        x, y = self.x[rows], y[rows]
        w = x.new_zeros(len(strengths), classes, x.shape[1] + 1) if start is None else start.clone()
        if classes == 1:
            return w  # a single class: any weights give it probability 1
        if x.dtype == torch.float64:
            return self._exact(x, y, w, strengths)
        penalty = x.new_tensor(strengths)
        shrunk = penalty[:, None, None].repeat(1, 1, x.shape[1] + 1)  # [S, 1, D + 1]
        shrunk[..., -1] = 0
        curvature = torch.cat([self.values, self.values.new_ones(1)]) / classes
        inverse = 1 / (curvature + shrunk).clamp(min=1e-12)
        least = max(rough, torch.finfo(x.dtype).eps / 10)  # means over images are taken in float64
        now = Point(w, *self._evaluate(x, y, w, shrunk))
        pairs: list[tuple[Tensor, Tensor]] = []
        running = torch.arange(len(strengths), device=x.device)  # the strengths that are not done
        for _ in range(MOST_STEPS):
            direction = -_times_inverse(now.gradient, pairs, inverse)
            moved = self._line_search(x, y, now, direction, shrunk, running)
            pairs = [*pairs, (moved.w - now.w, moved.gradient - now.gradient)][-HISTORY:]
            flat = moved.gradient.abs().amax((1, 2)) <= GRADIENT
            done = (now.value - moved.value <= least * now.value.clamp(min=FLOOR)) | flat
            now, running = moved, running[~done[running]]
            if len(running) == 0:
                break
        return now.w

    def _line_search(
        self, x: Tensor, y: Tensor, now: "Point", direction: Tensor, shrunk: Tensor, running: Tensor
    ) -> "Point":
        """Move the parameters of each unfinished strength along its direction, by the longest of
        the steps 1, 1/2, 1/4 … that lowers its objective enough (Armijo). If no step does,
        the parameters stay unchanged.
        """
        slope = _dot(now.gradient, direction)
        step, moved = torch.ones_like(shrunk[:, 0, 0]), Point(*(part.clone() for part in now))
        trying = running
        for _ in range(MOST_HALVINGS):
            moved.w[trying] = now.w[trying] + step[trying, None, None] * direction[trying]
            moved.value[trying], moved.gradient[trying] = self._evaluate(
                x, y, moved.w[trying], shrunk[trying]
            )
            allowed = now.value[trying] + ARMIJO * step[trying] * slope[trying] + 1e-12
            trying = trying[moved.value[trying] > allowed]
            if len(trying) == 0:
                break
            step[trying] /= 2
        for part, before in zip(moved, now, strict=True):  # no descent, because of rounding
            part[trying] = before[trying]
        return moved

    def _exact(self, x: Tensor, y: Tensor, w: Tensor, strengths: tuple[float, ...]) -> Tensor:
        """The parameters at which the gradient is zero up to rounding, by Newton's method."""
        rotated = torch.cat([x @ self.basis, x.new_ones(len(x), 1)], 1)
        target = torch.nn.functional.one_hot(y, w.shape[1]).to(x.dtype)
        arrays = rotated.cpu().numpy(), target.cpu().numpy()
        each = zip(w.cpu().numpy(), strengths, strict=True)
        made = [_newton(*arrays, start, strength) for start, strength in each]
        return torch.from_numpy(np.stack(made)).to(x.device)

    def parameters(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [S, Y, D] for the features in their own basis, and biases [S, Y]."""
        return w[..., :-1] @ self.basis.T, w[..., -1]

    def _evaluate(self, x: Tensor, y: Tensor, w: Tensor, shrunk: Tensor) -> tuple[Tensor, Tensor]:
        """Objective float64 [S] and gradient [S, Y, D + 1] in the eigenbasis, block by block."""
        s, classes, dimensions = w.shape
        weight, bias = self.parameters(w)
        value = x.new_zeros(s, dtype=torch.float64)
        gradient, biases = torch.zeros_like(weight), torch.zeros_like(bias)
        block = max(1, BLOCK // max(dimensions, s * classes))
        for images, labels in zip(x.split(block), y.split(block), strict=True):
            logits = matmul(images, weight.flatten(0, 1), bias.flatten()).view(-1, s, classes)
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


def _eigenbasis(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [D] and eigenvectors [D, D] of a float64 matrix. If the library fails, the
    coordinate axes are used: the basis changes the speed of a fit, but not its result.

    In float32 on a CPU, several releases of torch raise an error or return NaN for dead features.
    """
    try:
        values, basis = torch.linalg.eigh(covariance)
    except RuntimeError:
        values = basis = covariance.new_full((), torch.nan)
    if values.isfinite().all() and basis.isfinite().all():
        return values, basis
    return covariance.diagonal().clone(), torch.eye(
        len(covariance), dtype=covariance.dtype, device=covariance.device
    )


def _newton(x: Array, target: Array, w: Array, strength: float) -> Array:
    """The w [Y, D + 1] that minimises mean cross-entropy + (strength / 2) |w without biases|^2;
    x [n, D + 1] has a column of ones, target is one-hot [n, Y].

    Each step solves H d = -g by conjugate gradients, preconditioned by the diagonal of H, and is
    halved until the objective falls (Nocedal & Wright 2006, algorithm 7.1). numpy is used because
    its calls cost least for small arrays.
    """
    shrunk = np.full(x.shape[1], strength)
    shrunk[-1] = 0

    def at(w: Array) -> tuple[float, Array]:
        """The objective, and the probabilities of the classes [n, Y]."""
        logits = x @ w.T
        logits -= logits.max(1, keepdims=True)
        share = np.exp(logits)
        total = share.sum(1, keepdims=True)
        loss = (np.log(total[:, 0]) - (logits * target).sum(1)).mean()
        return float(loss + (shrunk * w**2).sum() / 2), share / total

    w = _apart(w)
    (now, share), least = at(w), np.inf
    for _ in range(MOST_STEPS):
        gradient = (share - target).T @ x / len(x) + shrunk * w
        direction = _newton_direction(x, share, shrunk, gradient)
        slope, steepest = float((gradient * direction).sum()), float(np.linalg.norm(gradient))
        rounding = 4 * np.finfo(x.dtype).eps * max(1.0, now)
        if -slope <= rounding and steepest > least / 2:
            break  # neither the objective nor its gradient decreases any more
        step, least = 1.0, min(least, steepest)
        for _ in range(MOST_HALVINGS):
            moved = w + step * direction
            found, shares = at(moved)
            if found <= now + ARMIJO * step * slope + rounding:
                break
            step /= 2
        w, now, share = moved, found, shares
    return w


def _newton_direction(x: Array, share: Array, shrunk: Array, gradient: Array) -> Array:
    """d [Y, D + 1] with H d = -gradient; H is the Hessian at class probabilities `share` [n, Y]."""
    if gradient.size <= DENSE:
        return _dense_direction(x, share, shrunk, gradient)
    diagonal = (share * (1 - share)).T @ x**2 / len(x) + shrunk
    inverse = 1 / diagonal.clip(min=1e-30)
    direction, residual = np.zeros_like(gradient), -gradient
    along = _apart(inverse * residual)
    size = (residual * along).sum()
    # this tolerance makes the convergence nearly quadratic
    enough = size * np.clip(np.linalg.norm(gradient), 1e-4, 0.1) ** 2
    for _ in range(MOST_INNER if size > 0 else 0):
        moved = share * (x @ along.T)
        moved -= share * moved.sum(1, keepdims=True)
        curved = moved.T @ x / len(x) + shrunk * along
        length = size / (along * curved).sum()
        direction += length * along
        residual -= length * curved
        scaled = _apart(inverse * residual)
        size, before = (residual * scaled).sum(), size
        if not size > enough:
            break
        along = scaled + (size / before) * along
    return direction


def _dense_direction(x: Array, share: Array, shrunk: Array, gradient: Array) -> Array:
    """The same direction for few parameters P, by solving the dense system with H [P, P]. A
    constant added to all biases changes nothing, so H is singular in this direction, and a
    curvature is added there. The result stays the same, because the gradient has no component in
    this direction.
    """
    classes, size = gradient.shape
    weighted = (share[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    hessian = -(weighted.T @ weighted).reshape(classes, size, classes, size) / len(x)
    for label in range(classes):
        own = x.T @ weighted[:, label * size : (label + 1) * size] / len(x)
        hessian[label, :, label] += own + np.diag(shrunk)
    hessian[:, -1, :, -1] += 1 / classes + 1e-15 * np.eye(classes)  # never singular
    square = hessian.reshape(gradient.size, gradient.size)
    direction: Any = np.linalg.solve(square, -gradient.reshape(-1, 1))
    return _apart(direction.reshape(classes, size))


def _apart(w: Array) -> Array:
    """Weights minus their mean over classes: the cross-entropy does not depend on that mean."""
    return w - w.mean(0)


def _times_inverse(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]], inverse: Tensor) -> Tensor:
    """L-BFGS's inverse Hessian times the gradient, for each strength (Nocedal & Wright 2006, 7.4).
    If the weights of a strength did not move, its pair has no curvature and is left out.
    """
    made, shares = gradient.clone(), []
    kept = [(step, change, _dot(step, change)) for step, change in pairs]
    for step, change, curvature in reversed(kept):
        share = torch.where(curvature > 0, _dot(step, made) / curvature, 0.0)
        made -= share[:, None, None] * change
        shares.append(share)
    made = inverse * made
    if kept:
        _, change, curvature = kept[-1]
        scale = torch.where(curvature > 0, curvature / _dot(change, inverse * change), 1.0)
        made *= scale[:, None, None]
    for (step, change, curvature), share in zip(kept, reversed(shares), strict=True):
        other = torch.where(curvature > 0, _dot(change, made) / curvature, 0.0)
        made += (share - other)[:, None, None] * step
    return made


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))
