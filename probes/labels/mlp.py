"""MLP probe: a network with one hidden layer on standardised frozen features.

n = images, D = feature dimensions, H = hidden units, Y = classes of all label columns together.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.console import steps_left
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.information.standardise import (
    mean_and_deviation,
    require_finite_features,
    require_finite_numbers,
    standardised,
)
from core.randomness import KeyedRNG
from core.run.features import Features
from core.transfer import near
from probes.labels.reading import Reading, frequency, with_absent
from probes.probe import Found, Numbers, Probe, Value, without_labels

BATCH, RATE, DECAY, DROPOUT = 256, 1e-3, 1e-2, 0.2
PATIENCE = 10  # epochs without a lower held-out cross-entropy


def mlp(
    train: Features, test: Features, seed: int = 0, hidden: int = 512, epochs: int = 100
) -> Numbers:
    """Top-1 and usable label information of every factor and their means, as in the linear probe,
    for a classifier with H hidden units (ReLU, dropout, AdamW).

    One network serves all factors. The epoch with the lowest cross-entropy on a held-out tenth of
    train is kept, and training ends after 10 epochs without a lower one. Test is read once. Raises
    `Unmeasurable` for features that are not finite, and for fewer than 20 training images.
    """
    top1, information = {}, {}
    found = readings(train, test, seed, hidden, epochs)
    for column, (factor, reading) in enumerate(zip(dict(train.factors), found, strict=True)):
        y = test.y[:, column]
        top1[f"top1/{factor}"] = reading.top1(y)
        entropy = -reading.log_frequency[y].mean().item()
        information[f"information/{factor}"] = entropy - reading.cross_entropy(y).mean().item()
    means = {
        "top1": sum(top1.values()) / len(top1),
        "information": sum(information.values()) / len(top1),
        "hidden": float(hidden),
    }
    require_finite_numbers(means | information, "MLP probe")
    return means | top1 | information


def readings(
    train: Features, test: Features, seed: int = 0, hidden: int = 512, epochs: int = 100
) -> list[Reading]:
    """Predictions of the MLP for every factor; labels of test are not read."""
    for name, features in (("training", train), ("test", test)):
        require_finite_features(features.x, f"MLP probe, {name} images")
    if len(train.x) < 20:
        raise Unmeasurable(f"MLP probe: needs 20 training images, got {len(train.x)}")
    mean, deviation = mean_and_deviation(train.x)
    x, x_test = (standardised(part.x, mean, deviation) for part in (train, test))
    order = KeyedRNG(seed, 0).permutation("mlp probe", len(x))
    held, rest = order[: len(x) // 10], order[len(x) // 10 :]
    sizes = [classes for _, classes in train.factors]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(x.shape[1], hidden),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, sum(sizes)),
        ).to(x.device)
        _fit(network, (x[rest], train.y[rest]), (x[held], train.y[held]), sizes, seed, epochs)
    with torch.no_grad():
        outputs = network.eval()(x_test).split(sizes, 1)
    return [
        Reading(with_absent(F.log_softmax(logits.double(), 1), y), frequency(y, classes).log())
        for logits, y, classes in zip(outputs, train.y.T, sizes, strict=True)
    ]


def _fit(
    network: nn.Sequential,
    train: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    sizes: list[int],
    seed: int,
    epochs: int,
) -> None:
    """Train in place; at the end the network has the weights of its best epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    x, y = train
    best, kept, since = float("inf"), copy.deepcopy(network.state_dict()), 0
    for epoch in steps_left(epochs, "MLP probe", "epochs"):
        network.train()
        order = KeyedRNG(seed, epoch).permutation("mlp probe order", len(x))
        for rows in order.split(BATCH):
            optimizer.zero_grad()
            _loss(network(x[rows]), y[rows], sizes).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            loss = _loss(network(held[0]), held[1], sizes).item()
        since += 1
        if loss < best:
            best, kept, since = loss, copy.deepcopy(network.state_dict()), 0
        if since == PATIENCE:
            break
    network.load_state_dict(kept)


def _loss(outputs: Tensor, y: Tensor, sizes: list[int]) -> Tensor:
    """The mean cross-entropy over label columns."""
    parts = zip(outputs.split(sizes, 1), y.T, strict=True)
    return torch.stack([F.cross_entropy(logits, label) for logits, label in parts]).mean()


class MLPProbe(Probe):
    """What a small network reads from the features; it can use more than a linear map can."""

    name, on_request = "mlp", True
    summary = "a network with one hidden layer on frozen features: top-1, and H(Y) - CE in nats"
    columns = ("MLP %", "MLP nats")
    options = {"hidden": 512, "epochs": 100}
    schema = """
        "top1", "information" (H(Y) - CE, nats), "top1/FACTOR", "information/FACTOR", "hidden" """

    def requires(self, frozen: Frozen) -> str:
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        both = frozen.features("trainval"), frozen.features("test")
        train, test = near(both, frozen.device)
        return Found(mlp(train, test, frozen.seed, options["hidden"], options["epochs"]))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['top1']:.1f}", f"{numbers['information']:.2f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * numbers["top1"], digits=1), Value(numbers["information"])]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"mlp/{key}": numbers[key] for key in ("top1", "information")}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"MLP probe, {numbers['hidden']:.0f} hidden units: {100 * numbers['top1']:.1f} % top-1"
            f" on test; {numbers['information']:.2f} nats of label information"
        ]
