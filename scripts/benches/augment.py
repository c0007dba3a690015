"""SimCLR views of 32x32 images: `core.data.views.augment`, which transforms whole batches, against
lightly (one image at a time) and kornia.

All sides use the CIFAR-10 setting of Chen et al. 2020 (appendix B.9): Inception crop of 8 to 100 %
of the area, flip, colour jitter of strength 0.5 with probability 0.8, grey with probability 0.2,
and no blur. The result is floats in [0, 1]. This is lightly's SimCLRTransform with cj_strength=0.5
(which lightly advises for CIFAR), gaussian_blur=0 and no normalisation.
"""

import functools
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as torchvision

from core.batch import as_float
from core.data.views import Policy, apply, augment, draw, policy
from core.randomness import KeyedRNG
from scripts.benches.contest import Contest

IMAGES, BATCH, SIZE = 2048, 512, 32
Views = list[Tensor]  # float [n, 3, 32, 32] in [0, 1], batches of both views


def contests(device: torch.device) -> Iterator[Contest]:
    """Contests with lightly (with its fastest number of workers) and, if installed, kornia."""
    images = pictures()
    workers, loader = fastest_loader(images)
    peers: list[tuple[str, Callable[[], Views], tuple[float | None, ...]]] = [
        (f"lightly, {workers} workers", loader, (11.0, 20.0))
    ]
    if importlib.util.find_spec("kornia"):
        peers.append(("kornia, whole batches", kornia(images.to(device)), (2.5, None)))
    for name, peer, targets in peers:
        for compiled, target in zip((False, True), targets, strict=True):
            rule = replace(policy("simclr", SIZE), compile=compiled)
            run = functools.partial(ours, images.to(device), rule)
            same = functools.partial(agree, images, rule)
            work = f"{IMAGES:,} images, {'compiled' if compiled else 'eager'}"
            yield Contest(work, run, name, peer, same, target)


def pictures() -> Tensor:
    """Smooth colour noise, uint8 [n, 3, 32, 32]: neighbouring pixels are similar, as in
    photographs.
    """
    noise = KeyedRNG(0, 0).normal("bench images", IMAGES, 3, SIZE, SIZE)
    return (torchvision.gaussian_blur(noise, [7, 7], [2.0, 2.0]) * 320 + 128).clamp(0, 255).byte()


def ours(images: Tensor, rule: Policy) -> Views:
    views = []
    for step, batch in enumerate(images.split(BATCH)):
        rng = KeyedRNG(0, step, device=images.device)
        views += [as_float(augment(batch, rng.fork(f"view{v}"), rule)) for v in range(2)]
    return views


class Pictures(Dataset[Any]):
    """The images in PIL's format, and lightly's two views of each."""

    def __init__(self, images: Tensor, **changes: Any):
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        setting: Any = {"input_size": SIZE, "cj_strength": 0.5, "gaussian_blur": 0.0}
        self.transform = SimCLRTransform(**(setting | changes))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.pictures[index])


def fastest_loader(images: Tensor) -> tuple[int, Callable[[], Views]]:
    """The fastest of 0, 1, 2 and 4 workers by the best of four passes, and the function of a pass.
    Workers keep running between passes.
    """
    found: dict[int, tuple[float, Callable[[], Views]]] = {}
    pictures = Pictures(images, normalize=None)
    for workers in (0, 1, 2, 4):
        with warnings.catch_warnings(action="ignore"):  # for more workers than cores
            kept: Any = {"num_workers": workers, "persistent_workers": workers > 0}
            run = functools.partial(read, DataLoader(pictures, BATCH // 2, **kept))
            found[workers] = min(timed(run) for _ in range(4)), run
    best = min(found, key=lambda workers: found[workers][0])
    return best, found[best][1]


def read(loader: DataLoader[Any]) -> Views:
    return [view for batch in loader for view in batch]


def timed(run: Callable[[], Views]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def kornia(images: Tensor) -> Callable[[], Views]:
    """The same operations with kornia, which draws one order of colour operations for each batch.
    (We draw one for each image.)
    """
    import kornia.augmentation as K

    rule = policy("simclr", SIZE)
    chain = K.AugmentationSequential(
        # "resample" is the faster of kornia's two ways to crop
        K.RandomResizedCrop((SIZE, SIZE), rule.scale, rule.ratio, cropping_mode="resample"),
        K.RandomHorizontalFlip(p=rule.flip),
        K.ColorJitter(rule.brightness, rule.contrast, rule.saturation, rule.hue, p=rule.jitter),
        K.RandomGrayscale(p=rule.gray),
    )
    return lambda: [chain(as_float(batch)) for batch in images.split(BATCH) for _ in range(2)]


def agree(images: Tensor, rule: Policy, mine: Views, theirs: Views) -> str:
    """Check that our views equal torchvision's for the same random numbers, and that the pixels of
    both sides have the same distribution.
    """
    drawn = draw(64, SIZE, SIZE, KeyedRNG(0, 0).fork("view0"), rule)
    reference = torch.stack(
        [one_by_one(image / 255, *row) for image, *row in zip(images, *drawn, strict=False)]
    )
    level = (apply(images[:64], drawn, rule) - 255 * reference).abs().max().item()
    assert level < 0.51, f"an operation is off by {level:.2f} levels"
    left, right = (torch.cat(views).cpu() for views in (mine, theirs))
    shapes = f"{list(left.shape)} and {list(right.shape)}"
    assert left.shape == right.shape == (2 * IMAGES, 3, SIZE, SIZE), shapes
    pairs = zip(moments(left), moments(right), strict=True)
    gap = max((a - b).abs().max().item() for a, b in pairs)
    assert gap < 0.015, f"pixels differ in mean, deviation or roughness by {gap:.3f}"
    gray = [
        (views.amax(1) - views.amin(1)).flatten(1).amax(1).lt(1e-3).float().mean().item()
        for views in (left, right)
    ]
    shares = f"{gray[0]:.3f} and {gray[1]:.3f} of the images are grey"
    assert abs(gray[0] - gray[1]) < 0.03, shares  # three standard errors
    return f"operations within {level:.2f} levels, pixels' moments within {gap:.3f}"


def one_by_one(x: Tensor, *drawn: Any) -> Tensor:
    """torchvision's view of one image, with the parameters that `core.data.views.draw` drew."""
    _, box, flip, jitter, order, strength, gray, *_ = drawn  # no rotation and no blur
    x = torchvision.resized_crop(x, *box.tolist(), size=[SIZE, SIZE], antialias=True)
    x = torchvision.horizontal_flip(x) if flip else x
    colour = ("brightness", "contrast", "saturation", "hue")
    for number in order.tolist() if jitter else []:
        x = getattr(torchvision, f"adjust_{colour[number]}")(x, strength[number].item())
    return torchvision.rgb_to_grayscale(x, 3) if gray else x


def moments(views: Tensor) -> tuple[Tensor, ...]:
    """For each channel: mean, deviation, and mean difference of neighbouring pixels."""
    return (
        views.mean((0, 2, 3)),
        views.transpose(0, 1).flatten(1).std(1),
        views.diff(dim=3).abs().mean((0, 2, 3)),
    )
