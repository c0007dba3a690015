"""Data sets by name: the table of torchvision's sets, and a set of one file in a user's own
package.
"""

import sys
import textwrap
from pathlib import Path

import pytest
import torch

from core.data import registry
from core.data.datasets import DataConfig, open_source
from core.data.readers import TORCHVISION
from core.data.registry import EMBEDDED, locate_source, trust
from core.data.source import eval_sampler, train_sampler
from core.errors import UserError
from core.run import config
from tests.pictures import write_mnist

RENDERED = '''
    """Discs: a circle of one of `sizes` radii, at a place that is drawn for each view."""

    from core.batch import Batch
    from core.data.source import Source, Truth
    from core.data.sprites import best_infonce
    from core.randomness import KeyedRNG

    import functools
    import math
    from dataclasses import dataclass

    import torch

    @dataclass
    class DiscsConfig:
        sizes: int = 4
        train: int = 64

        def __post_init__(self):
            if not 1 <= self.sizes <= 8:
                raise ValueError(f"sizes: must be from 1 to 8, got {self.sizes}")

    class Discs(Source):
        Config = DiscsConfig
        shape = (3, 16, 16)
        rendered, augmentation = True, "fresh rendering"

        def __init__(self, config, split, seed):
            self.config, self.factors = config, {"size": config.sizes}
            rng = KeyedRNG(seed, 0).fork(f"discs/{split}")
            self.content = rng.integers("size", config.sizes, config.train)
            best = functools.partial(best_infonce, combinations=config.sizes)
            self.truth = Truth(math.log(config.sizes), best)

        def __len__(self):
            return len(self.content)

        def batches(self, order, views):
            x = torch.arange(16.0)
            for index, rng in order:
                size = self.content[index]
                pictures = []
                for v in range(views):
                    place = 6 + 4 * rng.fork(f"view{v}").uniform("place", len(index), 2)
                    square = (x - place[:, :1]).square()[:, None] + (
                        x - place[:, 1:]).square()[:, :, None]
                    inside = square < (1 + size[:, None, None].float()).square()
                    pictures.append((255 * inside).byte()[:, None].repeat(1, 3, 1, 1))
                yield Batch(tuple(pictures), size[:, None], index, rng)

    class NoSet:
        Config = DiscsConfig
'''
STORED = """
    from core.data.images import Arrays

    from dataclasses import dataclass

    import torch

    @dataclass
    class GradientsConfig:
        levels: int = 10

    class Gradients(Arrays):
        Config = GradientsConfig

        def __init__(self, config, split, seed):
            labels = torch.arange(config.levels)[:, None]
            images = labels[:, None, None, :].expand(-1, 3, 32, 32).byte() * 20
            super().__init__(images.contiguous(), labels, {"level": config.levels})
"""
NAMED = """
    from core.data.images import Arrays

    from dataclasses import dataclass, field

    import torch

    @dataclass
    class Inner:
        code: str = "x"

    @dataclass
    class NamedConfig:
        path: str = "here"
        levels: int = 3
        inner: Inner = field(default_factory=Inner)

    class Named(Arrays):
        Config = NamedConfig

        def __init__(self, config, split, seed):
            self.read = config
            labels = torch.arange(config.levels)[:, None]
            super().__init__(torch.zeros(config.levels, 1, 4, 4).byte(), labels, {"level": 9})
"""
BROKEN = "raise OSError('no such disk')"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package outside of the repository, which is not trusted yet."""
    folder = tmp_path / "mydata"
    folder.mkdir()
    for name, text in (
        ("discs", RENDERED),
        ("stored", STORED),
        ("named", NAMED),
        ("broken", BROKEN),
    ):
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_trusted", set())
    yield "mydata"
    for module in [name for name in sys.modules if name.partition(".")[0] == "mydata"]:
        del sys.modules[module]


def test_a_users_set_is_opened_from_the_users_config(package):
    overrides = [
        "data.name=mydata.discs.Discs",
        "data.options.sizes=3",
        "data.augment=none",
        "folder=x",
    ]
    run = config.read("configs/simclr_sprites.yaml", overrides)
    source = open_source(run.data, "train", 5)
    assert source.factors == {"size": 3} and source.truth.nats == pytest.approx(1.0986, abs=1e-4)
    assert 0 < source.truth.best_infonce(7) < source.truth.nats
    assert source.rendered and source.augmentation == "fresh rendering" and run.data.views_differ
    (batch, *_) = source.batches(train_sampler(64, 16, 5, 0, 1), 2)
    assert not torch.equal(*batch.views) and batch.label.max() <= 2
    facts = source.identity.as_dict()
    assert facts["name"] == "mydata.discs.Discs"
    assert facts["settings"] == {"sizes": 3, "train": 64, "seed": 5}
    again = config.from_dict(config.to_dict(run), "a checkpoint")
    assert again.data == run.data, "options are kept in what is saved"


def test_a_users_stored_images_are_augmented_like_others(package):
    trust("mydata")
    settings = DataConfig(name="mydata.stored.Gradients", augment="simclr", options={"levels": 12})
    plain = open_source(settings, "train", 0, augmented=False)
    (batch,) = plain.batches(eval_sampler(12), 2)
    assert torch.equal(*batch.views) and batch.views[0][:, 0, 0, 0].tolist() == list(
        range(0, 240, 20)
    )
    seen = open_source(settings, "train", 0)
    (batch,) = seen.batches(eval_sampler(12), 2)
    assert not torch.equal(*batch.views)
    assert (plain.augmentation, seen.augmentation) == ("none", "simclr") and not seen.rendered
    assert (
        plain.identity.fingerprint == seen.identity.fingerprint and seen.identity.split == "train"
    )


def test_a_strangers_config_imports_nothing(package):
    values = config.to_dict(config.read("configs/simclr_sprites.yaml", ["folder=x"]))
    values["data"]["name"] = "mydata.broken.Anything"
    run = config.from_dict(values, "a checkpoint")
    with pytest.raises(UserError, match=r"^data\.name: .* not trusted; .*--trust mydata") as error:
        open_source(run.data, "train", 0)
    assert "mydata" not in sys.modules and "\n" not in str(error.value)
    with pytest.raises(UserError, match="not trusted"):
        locate_source("mydata.discs.Discs", trusted=["my", "mydata.stored", "mydatax"])


@pytest.mark.parametrize(
    "written", ["007", "1e5", "yes", "runs/exp #1", "a: b", "${oc.env:HOME}", r"\${x}", "null", ""]
)
def test_text_options_are_taken_literally(written, package, tmp_path):
    own = ["data.name=mydata.named.Named", "data.options.levels=4", "folder=x"]
    keys = ("path", "inner.code")
    run = config.read(
        "configs/simclr_sprites.yaml", [*own, *(f"data.options.{key}={written}" for key in keys)]
    )
    again = config.from_dict(config.to_dict(run), "a checkpoint")
    other = config.override(run, [f"data.options.path={written}x"], "a checkpoint")
    for taken, path in ((run, written), (again, written), (other, f"{written}x")):
        found = open_source(taken.data, "test", 0).config
        assert (found.path, found.inner.code, found.levels) == (path, written, 4)
    (tmp_path / "run.yaml").write_text(config.to_yaml(run))
    assert config.read(tmp_path / "run.yaml", []).data.options == run.data.options


def test_text_options_in_a_file_are_taken_literally(package, tmp_path):
    text = Path("configs/simclr_sprites.yaml").read_text()
    options = "name: mydata.named.Named, options: {path: 007, levels: 4, inner: {code: no}}"
    made = text.replace("data:\n  name: sprites\n", f"data: {{{options}}}\n")
    (tmp_path / "own.yaml").write_text(made)
    found = open_source(config.read(tmp_path / "own.yaml", []).data, "test", 0).config
    assert (found.path, found.levels, found.inner.code) == ("007", 4, "no")


@pytest.mark.parametrize("how", ["given", "told", "environment", "module"])
def test_ways_to_trust_a_package(how, package, monkeypatch):
    trusted = {"given": ["mydata"], "module": ["mydata.discs"]}.get(how, [])
    if how == "told":
        trust("mydata")
    if how == "environment":
        monkeypatch.setenv("TWOBOUNDS_TRUST", "other,mydata")
    assert locate_source("mydata.discs.Discs", trusted).__name__ == "Discs"


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("mydata.nothing.Discs", {}, "there is no file mydata/nothing.py"),
        ("mydata.discs.Disc", {}, "'Disc' of mydata.discs is not a data set"),
        ("mydata.discs.Disc", {}, r"did you mean 'Discs'\?"),
        ("mydata.discs.NoSet", {}, "subclass of core.data.source.Source"),
        ("mydata.broken.Any", {}, r"mydata\.broken can not be imported \(OSError: no such disk\)"),
        ("mydata.discs.Discs", {"size": 3}, r"unknown key 'size' \(did you mean 'sizes'\?\)"),
        ("mydata.discs.Discs", {"sizes": "many"}, r"data\.options\.sizes: .*many"),
        ("mydata.discs.Discs", {"sizes": 9}, r"data\.options\.sizes: must be from 1 to 8, got 9"),
    ],
)
def test_mistakes_are_one_line(name, options, said, package):
    trust("mydata")
    with pytest.raises(UserError, match=said) as error:
        open_source(DataConfig(name=name, options=options), "train", 0)
    assert "\n" not in str(error.value) and str(error.value).startswith("data.")


def test_settings_that_do_not_fit_rendered_data_are_refused(package):
    trust("mydata")
    for more in ({"grey": True}, {"binarise": True}, {"size": 48}):
        with pytest.raises(UserError, match=rf"^data\.{next(iter(more))}: mydata\.discs\.Discs "):
            open_source(DataConfig(name="mydata.discs.Discs", **more), "train", 0)
        with pytest.raises(ValueError, match=rf"^{next(iter(more))}: sprites "):
            DataConfig(**more)
    with pytest.raises(ValueError, match=r"a set of your own is package\.module\.Class"):
        DataConfig(name="discs")
    with pytest.raises(ValueError, match="^options: mnist has none"):
        DataConfig(name="mnist", options={"a": 1})


def test_a_new_embedded_set_is_one_line_of_the_table(package, monkeypatch):
    trust("mydata")
    monkeypatch.setitem(EMBEDDED, "discs", locate_source("mydata.discs.Discs"))
    monkeypatch.setattr("core.data.datasets.NAMES", (*EMBEDDED, "mnist"))
    settings = DataConfig(name="discs", options={"sizes": 2})
    assert open_source(settings, "test", 0).factors == {"size": 2} and settings.views_differ


def test_fashion_mnist_is_one_of_torchvision_s(tmp_path):
    write_mnist(tmp_path, "FashionMNIST")
    settings = DataConfig(name="fashion_mnist", root=str(tmp_path), validation=5, augment="none")
    source = open_source(settings, "test", 0)
    assert source.shape == (1, 28, 28) and source.identity.classes[0] == "T-shirt/top"


def test_every_set_of_the_table_is_torchvisions_and_accepts_its_arguments():
    import inspect

    from torchvision import datasets

    for name in TORCHVISION.values():
        asked = inspect.signature(getattr(datasets, name)).parameters
        assert {"root", "download"} <= asked.keys() and ("train" in asked or "split" in asked)
