"""A name of a number has one meaning: two parts of a program never give the same name to two
numbers, because one of the two would be lost.
"""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.simclr import SimCLR, SimCLRConfig
from core.batch import Output
from core.data.datasets import DataConfig, open_source
from core.data.source import eval_sampler
from core.errors import UserError
from core.method import Encoded
from core.run import config
from core.run.validation import Validation
from probes.probe import Probe, Value
from probes.report import groups, table, tabular
from probes.session import load_probes
from vae.beta import BetaVAE, BetaVAEConfig

SMALL = SimCLRConfig(backbone="small", hidden=8, projection=8)


@pytest.fixture
def validation(tmp_path):
    """On stored images, whose two training views are the same and whose probe views differ."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(24):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    data = DataConfig(
        "folder", str(tmp_path), augment="none", probe_augment="crop", validation=8, workers=0
    )
    run = config.RunConfig("contrastive.simclr.SimCLR", SMALL, data, folder=str(tmp_path / "run"))
    run.optim.batch_size = 8
    return Validation(run, torch.device("cpu"), open_source(data, "train", 0))


def test_the_methods_alignment_is_that_of_its_own_views(validation):
    scores = validation(SimCLR(SMALL, (3, 16, 16)), 0)
    assert scores["val/alignment"] == pytest.approx(0, abs=1e-6)
    assert scores["val/codes/alignment"] > 1e-3


def test_spread_of_codes_and_of_features_has_different_names(validation):
    method = SimCLR(SMALL, (3, 16, 16))
    with_codes = validation(method, 0)
    model = BetaVAEConfig(width=8, latent=4, likelihood="logistic")
    without = validation(BetaVAE(model, (3, 16, 16)), 0)
    assert "val/codes/uniformity" in with_codes and "val/features/uniformity" in without
    assert "val/features/uniformity" not in with_codes and "val/codes/uniformity" not in without


class _Knn(SimCLR):
    def forward(self, batch):
        made = super().forward(batch)
        return Output(made.loss, made.metrics | {"knn": made.loss.detach()})


def test_a_metric_with_the_name_of_another_number_is_refused(validation):
    validation.scores = lambda train, test: {"knn": 1.0}
    with pytest.raises(UserError, match="val/knn: the method's numbers"):
        validation(_Knn(SMALL, (3, 16, 16)), 0)


class Mine(Probe):
    name, summary, columns = "mine", "another accuracy", ("kNN %", "seeds")

    def cells(self, numbers):
        return ["12.5", "7"]

    def values(self, numbers):
        return [Value(12.5), Value(7.0)]

    def headline(self, numbers):
        return {"knn200": 0.125}


@pytest.fixture
def reported():
    probes = load_probes(["knn"]) | {"mine": Mine()}
    report = {
        "checkpoint": "/runs/a/last.ckpt",
        "method": "a.b.C",
        "data": "sprites",
        "step": 1,
        "knn": {"knn200": {"top1": 0.5, "k": 200.0, "temperature": 0.1}},
        "mine": {"any": 1},
    }
    return report, probes


def test_two_probes_with_one_name_of_a_number_are_both_logged(reported):
    assert table.numbers(*reported) == {"knn200": 0.5, "mine/knn200": 0.125}


def test_two_columns_with_one_heading_are_both_in_the_file(reported, tmp_path):
    report, probes = reported
    lines = groups.grouped([report], probes)
    (line,) = csv.DictReader(tabular.write_csv(lines, probes, tmp_path / "a.csv").open())
    assert (float(line["kNN %"]), float(line["kNN % (mine)"])) == (50.0, 12.5)
    assert (line["seeds"], float(line["seeds (mine)"])) == ("1", 7.0)
    head = table.head(probes)
    assert len(set(head)) == len(head)


def test_a_validation_reads_images_that_no_step_has_seen(validation):
    """Views, plain images and pairs are those of the 8 held-out images; the 16 others are those of
    the training and of the bank of neighbours.
    """
    sizes = []
    validation.scores = lambda train, held: sizes.append((len(train.x), len(held.x))) or {}
    method = SimCLR(SMALL, (3, 16, 16))
    validation(method, 0)
    assert sizes == [(16, 8)]
    trained, held = (
        {image.numpy().tobytes() for batch in source.batches(eval_sampler(len(source)), 1)
         for image in batch.views[0]}
        for source in (validation.source, validation.held_out)
    )  # fmt: skip
    assert len(trained) == 16 and len(held) == 8 and not trained & held
    for source in (validation.views, validation.pairs):
        labels = [batch.label for batch in source.batches(eval_sampler(len(source)), 1)]
        assert source.identity.fingerprint == validation.held_out.identity.fingerprint
        assert len(torch.cat(labels)) == 8
    assert validation.train.identity.fingerprint == validation.source.identity.fingerprint


def test_the_views_of_a_pair_stay_together_when_pairs_are_shuffled(validation):
    """A code that says which image it is agrees between the views of this image alone."""

    def encode(view, key):
        return Encoded(view.float().flatten(1), torch.eye(len(view)))

    space, first, second = validation._two_views(SimpleNamespace(encode=encode), 8)
    assert space == "codes" and torch.equal(first, second)
    assert not torch.equal(first, torch.eye(8)) and torch.equal(first.sum(0), torch.ones(8))
