"""The policies of augmentation by name, against the papers' numbers."""

import pytest

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
