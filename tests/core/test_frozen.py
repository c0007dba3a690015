"""Kept outputs of a frozen encoder are used only for the same weights, data, views and seeds."""

import pytest
import torch

from core.data.source import eval_sampler
from core.data.sprites import Sprites, SpritesConfig
from core.frozen import Frozen
from core.information.codes import coded
from core.run import checkpoint, config
from core.run.features import Features
from tests.probed import saved
from tests.small_vaes import saved as saved_vae
from tests.spies import spy
from tests.tiny_encoder import Encoder, frozen

READ = {
    "features": lambda one: list(one.features("test")[:2]),
    "pairs": lambda one: [*one.pairs("test").features, *one.pairs("test").codes],
    "views": lambda one: list(one.views("test", 3)),
}
CHANGES = [
    ("features", {"weights": "v"}), ("features", {"pixels": 1}), ("features", {"labels": 1}),
    ("features", {"run_seed": 1}), ("pairs", {"weights": "v"}), ("pairs", {"pixels": 1}),
    ("pairs", {"seed": 1}), ("pairs", {"augment": "simclr"}), ("views", {"augment": "moco"}),
    ("views", {"seed": 1}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("what", READ)
def test_the_same_images_are_encoded_once(what, tmp_path):
    first, again = frozen(tmp_path / "kept"), frozen(tmp_path / "kept")
    made, read = READ[what](first), READ[what](again)
    assert first.encoded > 0 and again.encoded == 0
    for one, other in zip(made, read, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("what, change", CHANGES)
def test_images_are_encoded_again_if_anything_that_changes_a_number_differs(what, change, tmp_path):
    READ[what](frozen(tmp_path / "kept"))
    other = frozen(tmp_path / "kept", **change)
    made = READ[what](other)
    assert other.encoded > 0
    for one, fresh in zip(made, READ[what](frozen(None, **change)), strict=True):
        assert torch.equal(one, fresh)


def test_the_numbers_of_views_and_of_images_are_part_of_the_key(tmp_path):
    one = frozen(tmp_path / "kept")
    assert one.views("test", 3).features.shape == (12, 3, 3)
    assert one.views("test", 2).features.shape == (12, 2, 3)
    assert one.views("test", 2, most=5).features.shape == (5, 2, 3)
    assert one.pairs("test", most=5).place.tolist() == [0, 2, 4, 7, 9]
    assert len(one.pairs("test").place) == 12


def test_another_version_of_a_package_encodes_again(tmp_path, monkeypatch):
    frozen(tmp_path / "kept").features("test")
    monkeypatch.setattr("core.frozen.versions", lambda: {"torch": "of tomorrow"})
    other = frozen(tmp_path / "kept")
    other.features("test")
    assert other.encoded == 12 and other.identity["versions"] == {"torch": "of tomorrow"}


def test_splits_are_never_taken_for_one_another(tmp_path):
    one = frozen(tmp_path / "kept")
    assert not torch.equal(one.features("test").x, one.features("train").x)
    assert not torch.equal(one.features("train").x, one.features("val").x)


def test_queries_and_keys_come_from_their_own_networks(tmp_path):
    pairs = frozen(tmp_path / "kept", augment="none").pairs("test")
    assert torch.equal(pairs.codes[0], pairs.features[0])
    assert torch.equal(pairs.codes[1], pairs.features[1] + 1000)
    views = frozen(tmp_path / "kept", augment="none").views("test", 2)
    assert torch.equal(views.codes, views.features)


@pytest.mark.parametrize("split", ["trainval", "val", "test"])
def test_images_are_those_that_features_encoded(split, tmp_path):
    """Of stored images, and of sprites, each view of which is rendered with other nuisance."""
    sizes = SpritesConfig(train=2500, validation=300, test=2300)  # several blocks of reading
    run = config.RunConfig(method="x", folder="x", seed=3)
    sprites = Frozen(
        Encoder(), run, weights="w", folder=tmp_path,
        sources=lambda split, augmented: Sprites(sizes, split, 3),
    )  # fmt: skip
    for one in (frozen(tmp_path), sprites):
        features = one.features(split)[0]
        places = torch.tensor([len(features) - 1, 0, len(features) // 2, 0])
        assert torch.equal(one.method.embed(one.images(split, places)), features[places])


def test_without_a_digest_of_weights_nothing_is_kept(tmp_path):
    for _ in range(2):
        one = frozen(tmp_path / "kept", weights="")
        one.features("test")
        assert one.encoded == 12 and not (tmp_path / "kept").exists()


def test_the_distortion_is_that_of_the_code_that_was_drawn(tmp_path):
    overrides = ["folder=x", "model.width=4", "model.latent=3", "data.sprites.test=20"]
    run = config.read("configs/beta_vae_sprites.yaml", overrides)
    one = Frozen(checkpoint.build_method(run, (3, 32, 32)), run, seed=5)  # of the probes
    source, found = one.source("test"), one.latents("test")
    (batch,) = source.batches(eval_sampler(20, 5, purpose="rate"), 1)
    x, q, z = coded(one.method, batch)
    expected = -one.method.likelihood(z).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(found.distortion, expected.detach())
    torch.testing.assert_close(found.z, z)
    torch.testing.assert_close((found.mean, found.sigma), (q.mean, q.stddev))


def test_a_label_of_one_class_has_no_part_in_means():
    x, y = torch.zeros(3, 2), torch.tensor([[1, 0, 2], [0, 0, 1], [1, 0, 0]])
    found = Features.of(x, y, {"shape": 2, "row": 1, "colour": 3})
    assert found.factors == (("shape", 2), ("colour", 3)) and torch.equal(found.y, y[:, [0, 2]])
    alone = Features.of(x, y[:, 1:2], {"row": 1})
    assert alone.factors == (("row", 1),) and alone.y.shape == (3, 1)


@pytest.mark.parametrize("left", [None, {}, {"root": "pictures"}])
def test_a_checkpoint_that_does_not_name_its_data_is_not_read_on_the_default_data(tmp_path, left):
    saved(tmp_path)
    path = tmp_path / "last.ckpt"
    entries = torch.load(path, weights_only=True)
    del entries["config"]["data"]
    if left is not None:
        entries["config"]["data"] = left
    torch.save(entries, path)
    with pytest.raises(config.UserError, match="last.ckpt: its config has no data.name"):
        Frozen.load(path)
    with pytest.raises(config.UserError, match="no data.name"):
        Frozen.load(path, ["data.root=elsewhere"])
    assert Frozen.load(path, ["data.name=sprites"]).run.data.name == "sprites"


def test_the_identity_holds_every_cause_of_a_number():
    one = frozen(None, weights="v", run_seed=4, seed=9, augment="moco")
    known = one.identity
    assert (known["weights"], known["run_seed"], known["seed"], known["views"]) == (
        "v",
        4,
        9,
        "moco",
    )
    for split in ("train", "val", "test"):
        assert known["data"][split] == one.source(split).identity.as_dict()
    assert len({str(part) for part in known["data"].values()}) > 1


def test_a_checkpoint_is_read_with_the_data_of_the_user_and_its_own_run(tmp_path, monkeypatch):
    """Other data are read; the run that trained the weights stays known for the log."""
    place = saved_vae(tmp_path / "run", seed=3) / "last.ckpt"
    entries = torch.load(place, weights_only=True)
    entries |= {"step": 7, "wandb_id": "abc"}
    entries["config"]["wandb"]["entity"] = "team"
    torch.save(entries, place)
    changed = ["data.sprites.test=40", "wandb.project=mine"]
    one = Frozen.load(place, changed, seed=6, device="cpu")
    assert one.weights == checkpoint.digest(place) and one.folder == place.parent / "features"
    assert (one.step, one.wandb_id, one.entity, one.seed, one.run.seed) == (7, "abc", "team", 6, 3)
    assert (one.run.data.sprites.test, len(one.source("test"))) == (40, 40)
    assert one.trained.data.sprites.test != 40 and one.trained.wandb.project == ""
    assert one.run.wandb.project == "mine" and one.run.wandb.entity == ""  # only a user chooses it
    asked = spy(monkeypatch, checkpoint, "run_of")
    on_meta = checkpoint.load_method(place, device="meta", trusted=["mine"]).method
    assert asked[0]["trusted"] == ["mine"]
    assert {x.device.type for x in on_meta.parameters()} == {"meta"} and not on_meta.training


def test_figures_are_of_the_first_test_images_with_the_seed_of_the_run(tmp_path):
    one, given = frozen(None, run_seed=4, seed=9), []
    one.method.figures = lambda batch: given.append(batch) or {"mine": [batch.views[0]]}
    assert one.figures(tmp_path) == {"mine": tmp_path / "mine.png"}
    (batch,) = given
    ((index, rng),) = eval_sampler(12, 4, 128, purpose="pictures", most=128)
    assert torch.equal(batch.index, index) and (tmp_path / "mine.png").is_file()
    assert torch.equal(batch.rng.uniform("any", 3), rng.uniform("any", 3))
