"""A small critic that is trained by InfoNCE on frozen features, the same for every method.

n = images, D = feature dimensions, P = code dimensions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.adamw import AdamW
from core.console import steps_left
from core.errors import Unmeasurable
from core.information.bounds import Estimate, infonce_terms, interval
from core.information.standardise import mean_and_deviation, require_finite_features, standardised
from core.matmul import speed_up
from core.randomness import KeyedRNG

BATCH, RATE, WARMUP = 512, 4e-3, 20
CYCLES = (50, 100, 200, 450, 800)  # steps; in each, the rate falls from its peak to 0
# training ends after a cycle that gains less than this share of the interval's half-width
ENOUGH = 0.25
# nats; a critic with a lower value may not have begun to learn, so it gets at least half the steps
PLATEAU = 0.1


class Critic(nn.Module):
    """s(x, y) = scale <g(x), g(y)>; g is a linear map plus a three-layer net on standardised
    features, and its output has unit length.

    Batch norm is needed if features carry no information linearly: for a VAE with little training,
    the bound after 800 steps was 0.0 nats for some seeds without batch norm, and 2.0 with it. The
    statistics of batch norm come from train.
    """

    mean: Tensor
    deviation: Tensor
    overfit = 0.0  # nats: its value on training pairs minus that on calibration pairs

    def __init__(self, features: Tensor, width: int = 256, codes: int = 64):
        super().__init__()
        mean, deviation = mean_and_deviation(features)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.skip = nn.Linear(features.shape[1], codes, bias=False)
        layers: list[nn.Module] = []
        for before in (features.shape[1], width):
            layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, codes))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, features: Tensor) -> Tensor:
        """Features [n, D] to unit-length codes [n, P]."""
        x = standardised(features, self.mean, self.deviation)
        return F.normalize(self.skip(x) + self.net(x), dim=1)

    def both(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of both sides of pairs."""
        return self(first), self(second)

    @property
    def scale(self) -> float:
        return self.log_scale.clamp(max=math.log(200.0)).exp().item()


class ApartCritic(Critic):
    """A critic with a net for each side, such as images and captions."""

    def __init__(self, first: Tensor, second: Tensor):
        super().__init__(first)
        self.other = Critic(second)
        del self.other.log_scale  # one scale serves both

    def both(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return self(first), self.other(second)


def train_critics(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], seed: int, apart: bool = False
) -> tuple[Critic, Critic]:
    """A critic that is trained on all pairs, and one on every second pair (`train_critic`).

    After the first cycle of both, the difference of their values is the gain from twice the pairs
    and twice the steps. If this gain is less than the overfitting of the second critic, a second
    cycle is not worth its time.
    """
    whole, half = (Training(*train, *val, seed, share, apart) for share in (1, 2))
    half.cycle()
    whole.cycle()
    for training in (whole, half):
        training.gain, training.overfit = whole.value.mean - half.value.mean, half.overfit
    return whole.finished(), half.finished()


def train_critic(
    first: Tensor,
    second: Tensor,
    val_first: Tensor,
    val_second: Tensor,
    seed: int,
    share: int = 1,
    apart: bool = False,
) -> Critic:
    """Train a critic on pairs of features [n, D] of the training split, in cycles with warm
    restarts (Loshchilov & Hutter 2017); each is at least as long as all earlier ones together.
    After each cycle, pairs of the calibration split show whether the critic is the best so far, and
    whether another cycle is worth its time: most critics end after 50 to 350 of 1,600 steps.
    Another cycle is not worth its time if the last one gained less than a quarter of the interval's
    half-width, or less than the overfitting. The overfitting is the value on the training pairs
    minus that on the calibration pairs. But as long as the best value is at most 0.1 nats, at least
    half of the steps are taken.

    `share` 2 trains on every second pair, in cycles of half the length. `apart`: each side has a
    net of its own.

    Raises `Unmeasurable` for features that are not finite, for fewer than two pairs in a split, and
    if no cycle gives a finite value.
    """
    return Training(first, second, val_first, val_second, seed, share, apart).finished()


class Training:
    """A critic in training; the arguments are those of `train_critic`."""

    value: Estimate  # on the calibration split, after the last cycle
    gain = math.inf  # of the last cycle
    overfit = 0.0  # the value on training pairs minus that on the calibration split

    def __init__(
        self,
        first: Tensor,
        second: Tensor,
        val_first: Tensor,
        val_second: Tensor,
        seed: int,
        share: int,
        apart: bool,
    ):
        names = ("training", "training", "calibration", "calibration")
        for name, features in zip(names, (first, second, val_first, val_second), strict=True):
            require_finite_features(features, f"critic, {name} images")
            if len(features) < 2:
                raise Unmeasurable(f"critic: needs two {name} images or more, got {len(features)}")
        self.train, self.val = (first[::share], second[::share]), (val_first, val_second)
        if len(self.train[0]) < 2:
            raise Unmeasurable("critic: half of the training images are too few; give 3 or more")
        self.seed, self.lengths = seed, [n // share for n in CYCLES]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = ApartCritic(*self.train) if apart else Critic(self.train[0])
        self.critic = speed_up(critic.to(first.device))
        self.optimizer = AdamW(self.critic.parameters(), weight_decay=1e-3)
        self.best, self.kept, self.cycles = -math.inf, self.critic.state_dict(), 0

    def cycle(self) -> None:
        """Train for one cycle, and keep the critic if it is the best so far."""
        done, length = sum(self.lengths[: self.cycles]), self.lengths[self.cycles]
        for step in steps_left(length, f"critic, steps {done} to {done + length}"):
            rate = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / length)
            random = KeyedRNG(self.seed, done + step)
            rows = random.permutation("critic batch", len(self.train[0]))[:BATCH]
            self.optimizer.zero_grad()
            _loss(self.critic, *(side[rows] for side in self.train)).backward()
            self.optimizer.step(rate)
        self.cycles += 1
        self.value = calibration_value(self.critic, *self.val)
        self.overfit = overfitting(self.critic, self.value.mean, *self.train, len(self.val[0]))
        self.gain = self.value.mean - self.best
        if self.gain > 0:
            self.best, state = self.value.mean, self.critic.state_dict()
            self.critic.overfit = self.overfit
            self.kept = {name: tensor.clone() for name, tensor in state.items()}

    def finished(self) -> Critic:
        """The best critic, after all cycles that are worth their time."""
        while self.cycles == 0 or (self.cycles < len(self.lengths) and self._worth_more()):
            self.cycle()
        if self.best == -math.inf:
            raise Unmeasurable(
                "critic: its value on the calibration split was never a finite number"
            )
        self.critic.load_state_dict(self.kept)
        return self.critic.eval().requires_grad_(False)

    def _worth_more(self) -> bool:
        done, all_steps = sum(self.lengths[: self.cycles]), sum(self.lengths)
        if self.best <= PLATEAU and done < all_steps / 2:
            return True
        return self.gain > max(ENOUGH * (self.value.high - self.value.mean), self.overfit)


def _loss(critic: Critic, first: Tensor, second: Tensor) -> Tensor:
    """Symmetric InfoNCE loss of a batch of pairs [B, D]."""
    scale = critic.log_scale.clamp(max=math.log(200.0)).exp()
    x, y = critic.both(first, second)
    scores = x @ y.T * scale
    target = torch.arange(len(first), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def calibration_value(critic: Critic, first: Tensor, second: Tensor) -> Estimate:
    """InfoNCE value of the critic on up to 2,048 pairs; batch norm is in evaluation mode."""
    return _value(critic, first, second, 2048)


@torch.no_grad()
def _value(critic: Critic, first: Tensor, second: Tensor, most: int) -> Estimate:
    n, was_training = min(most, len(first)), critic.training
    critic.eval()
    terms = infonce_terms(*critic.both(first[:n], second[:n]), critic.scale, [n])[0]
    critic.train(was_training)
    return interval(terms)


def overfitting(critic: Critic, value: float, first: Tensor, second: Tensor, count: int) -> float:
    """The value of a critic on training pairs minus `value`, which it has on `count` calibration
    pairs.
    """
    return _value(critic, first, second, min(count, 2048)).mean - value


def refit_scale(query: Tensor, key: Tensor, start: float) -> float:
    """The scale with the largest mean InfoNCE value on a calibration split, by golden-section
    search over its logarithm.

    If the scale were chosen on the reported pairs, the value would not be a bound. Raises
    `Unmeasurable` for codes or a start that are not finite.
    """
    for codes in (query, key):
        require_finite_features(codes, "scale, calibration codes")
    if not 0 < start < math.inf:
        raise Unmeasurable(f"scale: the search must start from a number above 0, got {start}")
    golden = (math.sqrt(5) - 1) / 2
    n = min(len(query), 2048)
    low, high = math.log(start) - 3, math.log(start) + 3

    def value(log_scale: float) -> float:
        return infonce_terms(query[:n], key[:n], math.exp(log_scale), [n]).mean().item()

    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(16):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = value(right)
    return math.exp((low + high) / 2)
