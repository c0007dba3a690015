"""The policies of augmentation by name, against the papers' numbers."""

from inspect import signature

import pytest
from lightly.transforms import MoCoV2Transform, SimCLRTransform

from core.data.views import policy
from core.errors import UserError


def test_published_settings() -> None:
    cifar, imagenet, moco = policy("simclr", 32), policy("simclr", 224), policy("moco", 224)
    assert (cifar.brightness, cifar.hue, cifar.blur) == (0.4, 0.1, 0.0) and (
        imagenet.brightness,
        imagenet.hue,
        imagenet.blur,
    ) == (
        0.8,
        0.2,
        0.5,
    )
    assert (
        cifar.scale == imagenet.scale == (0.08, 1.0)
        and moco.scale == (0.2, 1.0)
        and imagenet.kernel == moco.kernel == 23
    )
    assert policy("crop", 28).flip == policy("crop", 28).jitter == policy("crop", 28).gray == 0


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"data.augment: there is no 'simclar' \(did you mean 'simclr'\?\)"
    ):
        policy("simclar", 32)


@pytest.mark.parametrize("size, large", [(32, False), (64, False), (65, True), (96, True)])
def test_small_images_have_half_the_colour_and_no_blur_up_to_64_pixels(size, large):
    """The other numbers are the defaults of lightly's transforms."""
    simclr, moco = policy("simclr", size), policy("moco", size)
    own = {name: one.default for name, one in signature(SimCLRTransform).parameters.items()}
    strength = own["cj_strength"] if large else 0.5
    for key, name in (("brightness", "cj_bright"), ("contrast", "cj_contrast"), ("hue", "cj_hue"),
                      ("saturation", "cj_sat")):  # fmt: skip
        assert getattr(simclr, key) == pytest.approx(strength * own[name])
    theirs = [own[name] for name in ("cj_prob", "random_gray_scale", "hf_prob", "min_scale")]
    assert [simclr.jitter, simclr.gray, simclr.flip, simclr.scale[0]] == theirs
    blur = own["gaussian_blur"] if large else 0.0
    assert (simclr.blur, moco.blur) == (blur, blur)
    weaker = {name: one.default for name, one in signature(MoCoV2Transform).parameters.items()}
    assert moco.scale[0] == weaker["min_scale"] and moco.gray == weaker["random_gray_scale"]
    colours = [weaker["cj_strength"] * weaker[f"cj_{key}"] for key in ("bright", "sat", "hue")]
    assert [moco.brightness, moco.saturation, moco.hue] == pytest.approx(colours)
