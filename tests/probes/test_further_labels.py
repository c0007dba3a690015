"""Probes of labels on request: few labels, an MLP, fine-tuning, accuracy of each class.
scikit-learn is the oracle.
"""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from core.data.sprites import SpritesConfig
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.run import checkpoint, config
from core.run.features import Features
from core.run.optim import build_optimizer
from probes.labels import classes as by_class
from probes.labels.finetune import finetuned
from probes.labels.linear import linear
from probes.labels.low_shot import balanced, low_shot
from probes.labels.mlp import mlp
from scripts import probe


@pytest.fixture(scope="module")
def digits() -> tuple[Features, Features]:
    """1,200 training and 597 test images of handwritten digits, as features [n, 64]."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order])[:, None]
    parts = [slice(0, 1200), slice(1200, None)]
    return tuple(Features(x[part], y[part], (("digit", 10),)) for part in parts)


def xor(n: int, seed: int) -> Features:
    """The label is whether two features have the same sign, with 2 % noise: no linear map
    reads it.
    """
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=rng)
    y = ((x[:, 0] > 0) == (x[:, 1] > 0)).long()
    noise = torch.rand(n, generator=rng) < 0.02
    return Features(x, torch.where(noise, 1 - y, y)[:, None], (("same", 2),))


@pytest.mark.parametrize("percent, each", [(1, 2), (10, 18), (100, 182), (0.1, 1)])
def test_labelled_images_are_balanced_by_class(percent, each):
    y = torch.cat([torch.arange(10).repeat(150), torch.full((500,), 10)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    chosen = balanced(y, 11, percent, 0)
    counts = torch.bincount(y[chosen], minlength=11)
    assert counts.tolist() == [min(150, each)] * 10 + [each]
    assert torch.equal(chosen, balanced(y, 11, percent, 0)) and len(chosen.unique()) == len(chosen)
    assert percent == 100 or not torch.equal(chosen, balanced(y, 11, percent, 1))


def test_few_labels_are_read_like_many(digits):
    train, test = digits
    found = low_shot(train, test, 10, seed=3, draws=2)
    scores = []
    for draw in (0, 1):
        rows = balanced(train.y[:, 0], 10, 10, 3, draw)
        few = Features(train.x[rows], train.y[rows], train.factors)
        scores.append(linear(few, test, 3)["top1"])
    assert found["linear"] == {"top1": np.mean(scores), "sd": pytest.approx(np.std(scores, ddof=1))}
    assert found["images"] == 120 and found["draws"] == 2
    one = low_shot(train, test, 1, seed=3, draws=2)
    assert one["images"] == 10 and one["linear"]["top1"] < found["linear"]["top1"]
    assert 0.2 < one["knn"]["top1"] < found["knn"]["top1"]


def test_seeds_share_no_draws(digits, monkeypatch):
    """Means over seeds would vary too little if two seeds drew the same labelled images."""
    train, test = (Features(p.x[:300], p.y[:300], p.factors) for p in digits)
    drawn = set()

    def noted(few, here, seed):
        drawn.add(few.x.numpy().tobytes())
        return {"top1": 0.0}

    monkeypatch.setattr("probes.labels.low_shot.linear", noted)
    for seed in range(3):
        low_shot(train, test, 10, seed=seed, draws=3)
    assert len(drawn) == 9


def test_few_labels_of_several_factors_are_drawn_for_each():
    y = torch.stack([torch.arange(400) % 4, (torch.arange(400) // 4) % 2], 1)
    x = torch.nn.functional.one_hot(y[:, 0] * 2 + y[:, 1]).float()
    both = Features(x, y, (("a", 4), ("b", 2)))
    assert low_shot(both, both, 10, draws=1)["linear"] == {"top1": 1.0, "sd": 0.0}
    lone = Features(x[:1], y[:1, :1], (("a", 1),))
    with pytest.raises(Unmeasurable, match="needs 2 labelled images, but 1 % of the labels are 1"):
        low_shot(lone, both, 1)


def test_an_mlp_reads_what_no_linear_map_reads():
    train, test = xor(2000, 0), xor(2000, 1)
    found = mlp(train, test, hidden=64)
    assert linear(train, test)["top1"] < 0.56 and found["top1"] > 0.92
    # a noise of 2 % leaves log 2 - H(0.02) = 0.595 nats
    assert 0.35 < found["information"] < 0.6
    assert found == mlp(train, test, hidden=64), "a function of features, labels and seed"
    with pytest.raises(Unmeasurable, match="needs 20 training images"):
        mlp(Features(train.x[:5], train.y[:5], train.factors), test)


def test_an_mlp_is_as_good_as_that_of_scikit_learn(digits):
    train, test = digits
    scaler = StandardScaler().fit(train.x.numpy())
    theirs = MLPClassifier((512,), early_stopping=True, max_iter=100, random_state=0)
    theirs.fit(scaler.transform(train.x.numpy()), train.y[:, 0].numpy())
    score = theirs.score(scaler.transform(test.x.numpy()), test.y[:, 0].numpy())
    assert mlp(train, test)["top1"] > score - 0.015


def test_classes_are_those_of_scikit_learn(digits):
    train, test = digits
    found = by_class.by_class(train, test)["factor"]["digit"]
    strength = linear(train, test)["lambda/digit"]
    scaler = StandardScaler().fit(train.x.numpy())
    deviation = train.x.double().std(0).numpy()  # with n - 1
    scaler.scale_ = np.where(deviation > 0, deviation, 1)
    theirs = LogisticRegression(C=1 / (len(train.x) * strength), tol=1e-8, max_iter=5000)
    theirs.fit(scaler.transform(train.x.double().numpy()), train.y[:, 0].numpy())
    y, predicted = test.y[:, 0].numpy(), theirs.predict(scaler.transform(test.x.double().numpy()))
    counts = confusion_matrix(y, predicted)
    assert np.abs(np.array(found["confusion"]) - counts).sum() <= 2  # ties within rounding
    assert found["balanced"] == pytest.approx(balanced_accuracy_score(y, predicted), abs=0.005)
    assert found["images"] == counts.sum(1).tolist()
    assert np.array(found["confusion"]).sum() == len(y)


def test_a_class_without_training_or_test_images_is_no_error(tmp_path):
    train = Features(torch.eye(3).repeat(20, 1), (torch.arange(60) % 3)[:, None], (("c", 5),))
    test = Features(torch.eye(3), torch.tensor([[0], [1], [4]]), (("c", 5),))
    found = by_class.by_class(train, test)["factor"]["c"]
    assert found["classes"] == [0, 1, 4] and found["accuracy"] == [1.0, 1.0, 0.0]
    for names in (["a", "b_$x$", "_c", "d", "e"], list(map(str, range(5)))):
        path = by_class.draw_confusion(
            np.array(found["confusion"]), names, "c", tmp_path / "confusion.png"
        )
        assert path.read_bytes()[:4] == b"\x89PNG"


SPRITES = SpritesConfig(shapes=2, colours=3, sizes=1, grid=1, train=256, validation=64, test=128)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A checkpoint of an untrained SimCLR on small sprites."""
    run = config.read("simclr_sprites", ["wandb=disabled", "optim.batch_size=64"])
    run.data.sprites, run.folder = SPRITES, str(tmp_path_factory.mktemp("run"))
    method = checkpoint.build_method(run, (3, 32, 32))
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    checkpoint.save(path, checkpoint.State(run, method, build_optimizer(method, run.optim)))
    return path


def test_fine_tuning_changes_a_copy_and_learns(untrained):
    frozen = Frozen.load(untrained)
    before = {key: value.clone() for key, value in frozen.method.state_dict().items()}
    found = finetuned(frozen, epochs=20, percent=100)
    assert found["images"] == 256 and 1 <= found["best_epoch"] <= 20
    rough = finetuned(frozen, epochs=1, percent=4)
    assert rough["images"] == 10 and found["top1"] > rough["top1"] + 0.05
    after = frozen.method.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not any(p.requires_grad for p in frozen.method.parameters())
    assert rough == finetuned(frozen, epochs=1, percent=4)


def test_the_probes_on_request_go_through_the_command(untrained, capsys):
    names = "low_shot,mlp,mdl,usable,finetune,classes"
    words = ["low_shot.draws=2", "mlp.epochs=3", "finetune.epochs=1", "--device", "cpu"]
    words += ["mdl.orders=1", "mdl.tolerance=50", "usable.epochs=2"]
    probe.main([str(untrained), "--probes", names, *words])
    folder = untrained.parent / "probe"
    found = json.loads((folder / "probe.json").read_text())
    assert set(names.split(",")) <= found.keys() and not found["absent"]
    assert found["low_shot"]["seed"] == 0 and found["low_shot"]["1"]["draws"] == 2
    assert found["mdl"]["tolerance"] == 0.5 and found["mdl"]["images"] == 320
    assert (folder / "learning.png").is_file() and (folder / "usable.png").is_file()
    pictures = sorted(path.name for path in folder.glob("confusion*.png"))
    assert pictures == [f"confusion_{name}.png" for name in ("colour", "shape")]
    said = capsys.readouterr().out
    for words in (
        "1 % of the labels",
        "MLP probe, 512 hidden",
        "fine-tuned on 256",
        "worst class is ",
        "description length of shape: ",
        "surplus over",
        "usable information, MLP reader: ",
    ):
        assert words in said
