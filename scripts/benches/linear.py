"""The linear probe (a grid of five strengths and a refit) against lightly's recipe on cached
features and against scikit-learn's lbfgs.
"""

from collections.abc import Iterator

import torch
from lightly.utils.benchmarking import LinearClassifier
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader, TensorDataset

from core.run.features import Features
from probes.labels.linear import linear
from scripts.benches.contest import Contest
from scripts.benches.loop import lightning

CLASSES, DIMENSIONS, SPREAD = 10, 512, 0.13
EPOCHS, BATCH = 90, 256


def contests(device: torch.device) -> Iterator[Contest]:
    """50,000 x 512 features of unequal scale, like those of encoders. Our test accuracy must
    not be more than 0.2 percentage points below the peer's.
    """
    train, test = features(50_000, 0), features(10_000, 1)
    targets = train.y[:, 0], test.y[:, 0]

    def ours() -> float:
        return linear(train, test)["top1"]

    def sgd() -> float:
        """lightly's LinearClassifier under Lightning's Trainer; the identity is its encoder."""
        sizes = {"feature_dim": DIMENSIONS, "num_classes": CLASSES}
        peer = LinearClassifier(torch.nn.Identity(), BATCH, **sizes)
        loader = DataLoader(TensorDataset(train.x, targets[0]), BATCH, shuffle=True, drop_last=True)
        lightning(peer, loader, EPOCHS, device)
        with torch.no_grad():
            return (peer.cpu()(test.x).argmax(1) == targets[1]).double().mean().item()

    def lbfgs() -> float:
        peer = LogisticRegression(max_iter=1000).fit(train.x.numpy(), targets[0].numpy())
        return float(peer.score(test.x.numpy(), targets[1].numpy()))

    def same(mine: float, peer: float) -> str:
        said = f"top-1 {100 * mine:.2f} % and {100 * peer:.2f} %"
        assert mine > peer - 0.002, said
        return said

    name = f"linear probe, {len(train.x):,} x {DIMENSIONS}, {CLASSES} classes"
    yield Contest(name, ours, f"lightly's recipe, {EPOCHS} epochs", sgd, same, 50.0, rounds=1)
    yield Contest(name, ours, "scikit-learn lbfgs, one strength", lbfgs, same, 5.0, rounds=1)


def features(n: int, seed: int) -> Features:
    """Overlapping classes after a ReLU, in correlated dimensions whose scales differ by a factor
    of up to 30.
    """
    g = torch.Generator().manual_seed(7)
    centres = torch.randn(CLASSES, DIMENSIONS, generator=g) * SPREAD
    mix = torch.randn(DIMENSIONS, DIMENSIONS, generator=g) / DIMENSIONS**0.5
    scale = torch.logspace(-1, 0.5, DIMENSIONS)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=generator)
    noisy = centres[y] + torch.randn(n, DIMENSIONS, generator=generator)
    x = noisy @ (torch.eye(DIMENSIONS) + 0.5 * mix)
    return Features(torch.relu(x + 0.5) * scale, y[:, None], (("class", CLASSES),))
