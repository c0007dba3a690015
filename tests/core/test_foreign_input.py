"""The images that a foreign network reads are those of timm's own evaluation transform."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from core.errors import UserError
from core.foreign import networks
from core.foreign.encoder import Encoder, EncoderConfig
from core.foreign.frozen import Asked, open_encoder

DATA = ["data.name=sprites", *(f"data.sprites.{s}=16" for s in ("train", "validation", "test"))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))


def picture(kind, height, width):
    """Noise, which has the strongest edges, or a smooth picture."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("mode", "crop"), [("center", 0.875), ("center", 1.0), ("squash", 0.9), ("border", 0.94)]
)
@pytest.mark.parametrize(("height", "width"), [(50, 75), (37, 20), (12, 12), (65, 64)])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_images_are_those_of_timms_transform(kind, height, width, mode, crop, interpolation):
    pixels = picture(kind, height, width)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    transform = timm.data.create_transform(
        (3, 64, 64), interpolation=interpolation, mean=mean, std=std, crop_pct=crop, crop_mode=mode
    )
    config = EncoderConfig("x", 64, 3, mean, std, interpolation, crop, mode)
    encoder = Encoder(config, (3, height, width), nn.Identity())
    made = encoder.prepared(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
    assert made.shape == (3, 64, 64)
    difference = (made - transform(Image.fromarray(pixels))) * torch.tensor(std).view(3, 1, 1)
    assert 255 * difference.abs().max() <= 1.01
    assert 255 * difference.abs().mean() < 0.05


def test_images_of_the_input_size_are_read_as_they_are():
    config = EncoderConfig("x", 8, 3, crop=0.5)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(Encoder(config, (3, 8, 8), nn.Identity()).prepared(x), x)


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "test_vit", "mobilenetv3_small_100"])
def test_the_crop_of_a_network_is_that_of_timms_config(name):
    found = networks.from_timm(name, None, None, 0, 3).config
    facts = timm.data.resolve_model_data_config(timm.create_model(name))
    made = (found.crop, found.crop_mode, found.interpolation, found.size)
    wanted = [facts[key] for key in ("crop_pct", "crop_mode", "interpolation", "input_size")]
    assert made == (*wanted[:3], wanted[3][-1])


def test_the_crop_is_said_chosen_and_part_of_the_identity():
    asked = Asked(timm="test_resnet", random=True)
    own, other = open_encoder(asked, DATA), open_encoder(asked._replace(crop=1.0), DATA)
    assert own.frozen.weights != other.frozen.weights
    assert "from 32x32 resized to 168x168 (bilinear), centre cut out" in own.remarks[-1]
    assert "from 32x32 resized to 160x160 (bilinear), mean" in other.remarks[-1]
    assert "input 3x32x32, mean" in open_encoder(asked._replace(size=32), DATA).remarks[-1]


@pytest.mark.parametrize("crop", ["x", 0, float("nan"), [1], 1e9])
def test_a_crop_in_a_folder_of_unknown_origin_is_checked(crop, tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    facts = json.loads((tmp_path / "config.json").read_text())
    assert networks.from_folder(tmp_path).config.crop == facts["pretrained_cfg"]["crop_pct"]
    facts["pretrained_cfg"]["crop_pct"] = crop
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"config\.json: its input can not be used"):
        networks.from_folder(tmp_path)


def test_every_option_reaches_the_encoder_and_changes_what_its_features_are_kept_under(tmp_path):
    data = ["data.name=sprites", "data.sprites.test=4", "data.sprites.train=4"]
    plain = Asked(timm="test_resnet", random=True, size=32)
    changes = {
        "size": 64, "mean": (0.25, 0.5, 0.75), "std": (0.5, 0.25, 0.125), "crop": 0.5,
        "pool": "max",
    }  # fmt: skip
    base = open_encoder(plain, data)
    kept = {base.frozen.weights}
    for key, value in changes.items():
        frozen = open_encoder(plain._replace(**{key: value}), data, seed=4, device="cpu").frozen
        held = getattr(frozen.run.model, key)
        assert (tuple(held) if isinstance(value, tuple) else held) == value
        others = (other for other in changes if other != key)
        assert all(
            getattr(frozen.run.model, x) == getattr(base.frozen.run.model, x) for x in others
        )
        assert frozen.run.model.weights == frozen.weights and frozen.seed == 4
        kept.add(frozen.weights)
    kept.add(open_encoder(plain, [*data, "seed=1"]).frozen.weights)  # other random weights
    assert len(kept) == len(changes) + 2
    assert open_encoder(plain, data).frozen.weights == base.frozen.weights
    assert base.path.parts[-2:] == ("test_resnet-random", "last.ckpt")
    here = open_encoder(plain._replace(out=tmp_path), data)
    assert here.path == tmp_path / "last.ckpt" and here.frozen.folder == tmp_path / "features"
