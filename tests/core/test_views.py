"""Operations of views against torchvision's, image by image with the same parameters, and the
distributions of the random parameters against torchvision's.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from core.data import blocks, colour, views
from core.data.views import Parameters, Policy, augment, draw, policy
from core.randomness import KeyedRNG

B = 24
TORCHVISION = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
POLICIES = [
    ("simclr", 32, 3),
    ("simclr", 96, 3),
    ("moco", 32, 3),
    ("moco", 96, 1),
    ("crop", 28, 1),
    ("crop", 32, 3),
]


def pictures(channels: int = 3, height: int = 32, width: int = 32, images: int = B) -> Tensor:
    """uint8 noise, so smooth that neighbouring pixels are similar, including gray, black and white
    images and saturated pixels.
    """
    noise = KeyedRNG(0, 0).normal("picture", images, channels, height, width)
    smooth = tv.gaussian_blur(noise, [5, 5], [1.5, 1.5]) * 500 + 128
    smooth[0], smooth[1], smooth[2] = 0, 255, smooth[2, :1]
    return smooth.clamp(0, 255).to(torch.uint8)


def one_by_one(operation: Callable[..., Tensor], images: Tensor, *parameters: Tensor) -> Tensor:
    return torch.stack(
        [
            operation(image, *(p.tolist() for p in row))
            for image, *row in zip(images, *parameters, strict=True)
        ]
    )


def parameters(height: int, width: int, policy: Policy, images: int = B) -> Parameters:
    return draw(images, height, width, KeyedRNG(1, 2), policy)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("channels", "height", "width", "size"),
    [(3, 32, 32, 32), (1, 28, 28, 28), (3, 40, 61, 24), (3, 30, 20, 45)],
)
def test_resized_crop_and_flip(channels: int, height: int, width: int, size: int) -> None:
    image = pictures(channels, height, width)
    drawn = parameters(height, width, policy("simclr", size))

    def reference(x: Tensor, box: list[int], flip: bool) -> Tensor:
        view = tv.resized_crop(x, *box, size=[size, size], antialias=True)
        return tv.horizontal_flip(view) if flip else view

    theirs = one_by_one(reference, image / 255, drawn.box, drawn.flip)
    close(views.resized_crop(image / 255, drawn.box, drawn.flip, size), theirs, 5e-6)
    close(
        views.resized_crop(image.float(), drawn.box, drawn.flip, size).round(),
        one_by_one(reference, image, drawn.box, drawn.flip),
        1,
    )
    assert 0 < drawn.flip.sum() < B


@pytest.mark.parametrize("of", [pictures(), pictures() / 255])
def test_crops_of_a_run_in_float64_are_the_same(of: Tensor) -> None:
    drawn = parameters(32, 32, policy("simclr", 32))
    crops = views.resized_crop(of, drawn.box, drawn.flip, 32)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(views.resized_crop(of, drawn.box, drawn.flip, 32), crops)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("height", [28, 37])
def test_rotation(height: int) -> None:
    image, angle = pictures(1, height, 28) / 255, torch.linspace(-60, 90, B)
    close(
        views.rotate(image, angle),
        one_by_one(lambda x, a: tv.rotate(x, a, InterpolationMode.BILINEAR), image, angle),
    )


@pytest.mark.parametrize(("height", "width", "kernel"), [(32, 32, 3), (40, 25, 9), (12, 12, 23)])
def test_blur(height: int, width: int, kernel: int) -> None:
    image, sigma = pictures(3, height, width), torch.linspace(0.1, 2.0, B)
    ours = views.gaussian_blur(image.float(), sigma, kernel)
    close(
        ours / 255,
        one_by_one(lambda x, s: tv.gaussian_blur(x, [kernel, kernel], [s, s]), image / 255, sigma),
    )
    close(
        ours.round(),
        one_by_one(lambda x, s: tv.gaussian_blur(x, [kernel, kernel], [s, s]), image, sigma),
        1,
    )


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("number", range(4))
def test_colour_operation(number: int, channels: int) -> None:
    image, strength = (
        pictures(channels),
        torch.linspace(-0.5, 0.5, B) if number == colour.HUE else torch.linspace(0, 2, B),
    )
    ours = image / 255
    if number != colour.HUE:
        colour.mix(ours.unbind(1), colour.mixture(torch.full((B,), number), strength))
    elif channels == 3:
        colour.turn_hue(ours.unbind(1), strength)
    close(ours, one_by_one(TORCHVISION[number], image / 255, strength))
    close(
        (ours * 255).round(), one_by_one(TORCHVISION[number], image, strength), 2
    )  # torchvision truncates fractions, and does so twice


def test_hue_of_every_kind_of_colour() -> None:
    """All 8 corners, the edges and the gray levels of the colour cube, and colours that are almost
    gray; whole turns change nothing.
    """
    level = torch.tensor([0, 1e-6, 0.25, 0.5, 0.5 + 1e-6, 0.75, 1])
    cube = torch.cartesian_prod(level, level, level).T.reshape(1, 3, 7, 49)
    for shift in (-0.5, -0.3, -1 / 6, 0.0, 0.1, 1 / 3, 0.5):
        for turns in (0, 3):
            ours = cube.clone()
            colour.turn_hue(ours.unbind(1), torch.tensor([shift + turns]))
            close(ours, tv.adjust_hue(cube, shift), 5e-6)


def test_a_mixture_of_only_the_image_changes_no_bit() -> None:
    image, before = pictures() / 255, pictures() / 255
    colour.mix(image.unbind(1), torch.tensor([colour.SAME]).expand(B, 3))
    assert torch.equal(image, before)


def test_grayscale() -> None:
    image, chosen = pictures(), torch.arange(B) % 3 == 0
    ours, gray = image / 255, one_by_one(lambda x: tv.rgb_to_grayscale(x, 3), image / 255)
    colour.grayscale(ours.unbind(1), chosen.nonzero()[:, 0])
    close(ours, torch.where(chosen.view(-1, 1, 1, 1), gray, image / 255))
    colour.grayscale(ours.unbind(1), torch.arange(B))
    close((ours * 255).round(), one_by_one(lambda x: tv.rgb_to_grayscale(x, 3), image), 1)


def in_order(x: Tensor, chosen: bool, order: list[int], strength: list[float]) -> Tensor:
    for number in order if chosen else []:
        x = TORCHVISION[number](x, strength[number])
    return x


@pytest.mark.parametrize("channels", [3, 1])
def test_jitter_gives_each_image_its_own_order(channels: int) -> None:
    image, drawn = (
        pictures(channels, images=60) / 255,
        parameters(32, 32, policy("simclr", 96), images=60),
    )
    turn, by = colour.hue_turn(drawn.jitter, drawn.order).sort()
    chosen, order, strength = (values[by] for values in (drawn.jitter, drawn.order, drawn.strength))
    theirs = one_by_one(in_order, image, chosen, order, strength)
    for known in (turn, None):
        ours = image.clone()
        colour.jitter(ours.unbind(1), colour.steps(chosen, order, strength), known)
        close(ours, theirs, 2e-5)  # the hue of almost gray pixels magnifies rounding errors
        assert known is None or torch.equal(ours[~chosen], image[~chosen])
    assert 0 < chosen.sum() < 60


@pytest.mark.parametrize(("name", "size", "channels"), POLICIES)
def test_whole_policy(name: str, size: int, channels: int) -> None:
    rule, image, rng = policy(name, size), pictures(channels, size, size), KeyedRNG(3, 4)
    drawn = draw(B, size, size, rng, rule)

    def reference(x: Tensor, *parameters: Any) -> Tensor:
        angle, box, flip, chosen, order, strength, gray, blur, sigma = parameters
        x = tv.rotate(x, angle, InterpolationMode.BILINEAR) if rule.rotation else x
        x = tv.resized_crop(x, *box, size=[size, size], antialias=True)
        x = tv.horizontal_flip(x) if flip else x
        x = in_order(x, chosen, order, strength)
        x = tv.rgb_to_grayscale(x, channels) if gray else x
        return tv.gaussian_blur(x, [rule.kernel, rule.kernel], [sigma, sigma]) if blur else x

    ours, before = augment(image, rng, rule), image.clone()
    assert (
        ours.dtype == torch.uint8
        and ours.shape == image.shape
        and ours.is_contiguous()
        and torch.equal(image, before)
    )
    theirs = one_by_one(reference, image / 255, *drawn) * 255
    close(ours, theirs.round(), 1)
    assert (ours.float() - theirs).abs().max() < 0.51  # one rounding, to the nearest level


def test_crop_boxes_are_distributed_as_torchvision_draws_them() -> None:
    height, width, n = 200, 300, 3000
    rule = policy("simclr", 224)
    ours = parameters(height, width, rule, n).box
    torch.manual_seed(0)
    transform, image = RandomResizedCrop(224, rule.scale, rule.ratio), torch.zeros(3, height, width)
    theirs = torch.tensor(
        [
            [p[key] for key in ("top", "left", "height", "width")]
            for p in (transform.make_params([image]) for _ in range(n))
        ]
    )
    for name, statistic in (
        ("area", lambda b: b[:, 2] * b[:, 3] / (height * width)),
        ("ratio", lambda b: b[:, 3] / b[:, 2]),
        ("top", lambda b: b[:, 0] / (height - b[:, 2] + 1)),
        ("left", lambda b: b[:, 1] / (width - b[:, 3] + 1)),
    ):
        assert stats.ks_2samp(statistic(ours).numpy(), statistic(theirs).numpy()).pvalue > 0.01, (
            name
        )
    assert (
        (ours[:, :2] >= 0).all()
        and (ours[:, 2:] > 0).all()
        and (ours[:, :2] + ours[:, 2:] <= torch.tensor([height, width])).all()
    )


def test_a_crop_may_lie_at_every_place() -> None:
    boxes, counts = parameters(5, 5, Policy(5, scale=(0.36, 0.36)), 2000).box.unique(
        dim=0, return_counts=True
    )
    assert boxes.tolist() == [[top, left, 3, 3] for top in range(3) for left in range(3)]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (20, 20)])
@pytest.mark.parametrize("ratio", [(0.75, 4 / 3), (1.0, 1.0)])
def test_a_crop_that_never_fits_is_central(
    height: int, width: int, ratio: tuple[float, float]
) -> None:
    four_times_the_image = Policy(16, scale=(4.0, 4.0), ratio=ratio)
    box = views.crop_boxes(
        torch.ones(3, 10, 2), torch.zeros(3, 2), height, width, four_times_the_image
    )
    expected = RandomResizedCrop(16, (4.0, 4.0), ratio).make_params([torch.zeros(3, height, width)])
    assert box.tolist() == [[expected[key] for key in ("top", "left", "height", "width")]] * 3


def test_probabilities_strengths_and_orders() -> None:
    n = 6000
    drawn, rule = parameters(96, 96, policy("simclr", 96), n), policy("simclr", 96)
    for name, rate in (
        ("flip", rule.flip),
        ("jitter", rule.jitter),
        ("gray", rule.gray),
        ("blur", rule.blur),
    ):
        assert stats.binomtest(int(getattr(drawn, name).sum()), n, rate).pvalue > 0.01, name
    for values, low, high in (
        *((drawn.strength[:, i], 0.2, 1.8) for i in range(3)),
        (drawn.strength[:, 3], -0.2, 0.2),
        (drawn.sigma, 0.1, 2.0),
    ):
        assert stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue > 0.01
    orders, counts = drawn.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24 and stats.chisquare(counts.numpy()).pvalue > 0.01
    columns = [
        drawn.box[:, 0],
        drawn.box[:, 1],
        drawn.flip,
        drawn.jitter,
        drawn.order[:, 0],
        *drawn.strength.T,
        drawn.gray,
        drawn.blur,
        drawn.sigma,
    ]
    together = np.corrcoef(torch.stack([c.float() for c in columns]).numpy()) - np.eye(len(columns))
    together[0, 1] = together[1, 0] = 0  # a small box has room in both directions
    assert (
        np.abs(together).max() < 0.055
    )  # four standard deviations: no two purposes share a stream


def test_a_factor_is_never_negative() -> None:
    assert parameters(32, 32, Policy(32, jitter=1.0, contrast=1.5), 500).strength.min() >= 0


@pytest.mark.parametrize(("name", "size", "channels"), POLICIES)
def test_ranks_make_their_part_of_the_whole_batch(name: str, size: int, channels: int) -> None:
    image, rule = pictures(channels, size, size), policy(name, size)
    whole = augment(image, KeyedRNG(5, 6).fork("view0"), rule)
    halves = [
        augment(half, KeyedRNG(5, 6, rank, 2).fork("view0"), rule)
        for rank, half in enumerate(image.chunk(2))
    ]
    assert torch.equal(torch.cat(halves), whole)


def test_views_are_a_function_of_seed_step_and_name() -> None:
    image, rule = pictures(), policy("simclr", 32)
    torch.manual_seed(0)
    first = augment(image, KeyedRNG(0, 0), rule)
    torch.rand(7)
    assert torch.equal(first, augment(image, KeyedRNG(0, 0), rule))
    for other in (KeyedRNG(1, 0), KeyedRNG(0, 1), KeyedRNG(0, 0).fork("view1")):
        assert not torch.equal(first, augment(image, other, rule))


@pytest.mark.parametrize("inference", [False, True])
def test_threads_and_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, inference: bool
) -> None:
    image, rule, threads = pictures(images=90), policy("simclr", 32), torch.get_num_threads()
    whole = augment(image, KeyedRNG(0, 0), rule)
    monkeypatch.setattr(blocks, "BLOCK", 8 * image[0].numel())
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            with torch.inference_mode(inference):
                assert torch.equal(augment(image, KeyedRNG(0, 0), rule), whole)
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_a_block_is_raised_and_the_threads_stay_usable() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        blocks.in_blocks(lambda block: 1 // 0, 4, blocks.BLOCK, torch.device("cpu"))  # type: ignore[arg-type,func-returns-value]
    assert torch.get_num_threads() == threads


def near(ours: Tensor, theirs: Tensor) -> None:
    """Equal except for the few pixels that are rounded to the other side."""
    assert (ours.int() - theirs.int()).abs().max() <= 1 and (ours != theirs).float().mean() < 1e-3


@pytest.mark.parametrize(("name", "size", "channels"), POLICIES)
def test_compiled_code_makes_the_same_views(name: str, size: int, channels: int) -> None:
    image, rule = pictures(channels, size, size), policy(name, size)
    drawn = parameters(size, size, rule)
    near(
        views.as_a_whole(image, views.prepare(drawn, image.device), rule),
        views.apply(image, drawn, rule),
    )


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
@torch._inductor.config.patch(  # else most of the time goes into trials of instruction sets
    {"cpp.vec_isa_ok": True, "cpp.simdlen": 256, "cpp_cache_precompile_headers": False}
)
def test_compiled_views() -> None:
    """Two processes compile for the same shape, because a compilation takes 15 s."""
    image, rule = pictures(), replace(policy("simclr", 32), compile=True)
    first, second = (
        augment(half, KeyedRNG(0, 0, rank, 2), rule) for rank, half in enumerate(image.chunk(2))
    )
    near(torch.cat([first, second]), augment(image, KeyedRNG(0, 0), policy("simclr", 32)))
    again = augment(image[: len(first)], KeyedRNG(0, 0, 0, 2), rule)
    assert torch.equal(first, again) and first.is_contiguous()


def test_none_changes_only_the_size() -> None:
    image = pictures()
    assert torch.equal(augment(image, KeyedRNG(0, 0), policy("none", 32)), image)
    wide = pictures(3, 40, 61)
    expected = tv.resize(tv.center_crop(wide / 255, [40, 40]), [24, 24], antialias=True) * 255
    close(augment(wide, KeyedRNG(0, 0), policy("none", 24)), expected, 0.51)
