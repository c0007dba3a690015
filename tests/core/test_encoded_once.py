"""How many images a frozen encoder encodes for each kind of output: no image is encoded twice."""

import pytest
import torch
import torch.nn.functional as F

from core.batch import Encoded
from core.data.sprites import Sprites, SpritesConfig
from core.frozen import Frozen
from core.run import config
from probes.labels.knn import KNNProbe
from probes.labels.linear import LinearProbe
from probes.latents.disentanglement import DisentanglementProbe
from probes.views.geometry import GeometryProbe
from probes.views.information import InformationProbe
from tests.tiny_encoder import Encoder, frozen

SIZES = SpritesConfig(colours=2, grid=1, train=2700, validation=600, test=1200)


class Momentum(Encoder):
    """Features of a few pixels; the keys come from another network."""

    temperature, other = 0.1, 0.5

    def embed(self, x):
        return x.float().flatten(1)[:, 1000:1256:4] / 255

    def encode(self, x, key=False):
        features = self.embed(x)
        codes = features * torch.linspace(1, 1 + self.other * key, features.shape[1])
        return Encoded(features, F.normalize(codes, dim=1))

    def codes(self, query, key):
        return self.encode(query).codes, self.encode(key, key=True).codes


class OneNetwork(Momentum):
    other = 0.0


def sprites(folder, method=OneNetwork, **more):
    run = config.RunConfig(method="x", folder="x", seed=3)
    sources = lambda split, augmented: Sprites(SIZES, split, 3)  # noqa: E731
    return Frozen(method(), run, weights="w", folder=folder, sources=sources, **more)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("method, lidar", [(OneNetwork, 6), (Momentum, 7)])
def test_the_probes_of_a_checkpoint_encode_each_image_once(method, lidar, tmp_path, monkeypatch):
    """Rendered images: plain ones of all splits, a second view of each (of the calibration pairs,
    at most 2,049), and for LiDAR what is missing of eight views of 1,000 images.
    """
    monkeypatch.setattr("probes.views.critic.CYCLES", (2,))
    monkeypatch.setattr("probes.latents.disentanglement.TREES", 1)
    expected = {
        LinearProbe: 2700 + 600 + 1200, KNNProbe: 0, InformationProbe: 2700 + 600 + 1200,
        GeometryProbe: 1000 * lidar, DisentanglementProbe: 0,
    }  # fmt: skip
    one = sprites(tmp_path / "kept", method)
    found = {}
    for probe in expected:
        before = one.encoded
        probe().measure(one)
        found[probe] = one.encoded - before
    assert found == expected


def test_stored_images_lend_their_pairs_to_lidar(tmp_path):
    one = frozen(tmp_path / "kept")  # 12 images; keys come from another network
    one.features("test")
    assert one.encoded == 12
    one.pairs("test")
    assert one.encoded == 12 + 24
    one.views("test", 8, most=5)
    assert one.encoded == 12 + 24 + 5 * 7


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_rendered_image_is_the_first_view_of_its_pair(split, tmp_path):
    one = sprites(tmp_path / "kept")
    pairs = one.pairs(split)
    whole = one.features("test" if split == "test" else "trainval").x
    first = {"train": 0, "val": 2700, "test": 0}[split]
    assert torch.equal(pairs.features[0], whole[first : first + len(pairs.place)])
    assert not torch.equal(pairs.features[0], pairs.features[1])
    for features, codes in zip(pairs.features, pairs.codes, strict=True):
        assert torch.equal(F.normalize(features, dim=1), codes)
    assert pairs.place.tolist() == list(range(len(pairs.place)))


@pytest.mark.parametrize("split, most", [("train", 700), ("val", None), ("train", 100)])
@pytest.mark.parametrize("folder", [None, "kept"])
def test_few_pairs_do_not_encode_the_whole_split_and_are_the_same(split, most, folder, tmp_path):
    """Whether or not the features of all images are at hand."""
    alone = sprites(folder and tmp_path / folder)
    pairs = alone.pairs(split, most)
    assert alone.encoded <= len(pairs.place) + 2 * 512 + len(pairs.place)
    after = sprites(tmp_path / "other")
    after.features("trainval")
    before = after.encoded
    again = after.pairs(split, most)
    assert after.encoded - before == len(again.place)
    for one, other in zip(
        (*pairs.features, *pairs.codes), (*again.features, *again.codes), strict=True
    ):
        assert torch.equal(one, other)


def test_views_begin_with_those_of_the_pairs(tmp_path):
    for method, shared in ((OneNetwork, 2), (Momentum, 1)):
        one = sprites(tmp_path / method.__name__, method)
        pairs, views = one.pairs("test"), one.views("test", 4, most=300)
        rows = torch.arange(300) * 4
        for number in range(shared):
            assert torch.equal(views.features[:, number], pairs.features[number][rows])
            assert torch.equal(views.codes[:, number], pairs.codes[number][rows])
        assert views.features.shape[:2] == views.codes.shape[:2] == (300, 4)
        torch.testing.assert_close(F.normalize(views.features, dim=2), views.codes)
        flat = views.features.transpose(0, 1).flatten(1)
        assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 0.1  # all views are different
