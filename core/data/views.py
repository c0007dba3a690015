"""Augmented views of a batch, as tensor operations on the device.

B = images on this process, C = 3 or 1 channels, H W = size of an image, S = size of a view. Images
are uint8 before the first and after the last operation, and float in [0, 1] in between. They are
rounded once, to the nearest level, at the end; torchvision rounds uint8 images after every
operation.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from core.batch import as_float
from core.data import fused_views
from core.data.blocks import in_blocks
from core.data.colour import GRAY, SAME, Steps, grayscale, hue_turn, jitter, mix, steps
from core.data.resize import resized_crop
from core.errors import UserError, nearest
from core.randomness import KeyedRNG
from core.transfer import send, to_device

ATTEMPTS = 10  # to draw a box that fits into the image, like torchvision


@dataclass(frozen=True)
class Policy:
    """The random operations on an image, in this order. `Policy(size)` only resizes."""

    size: int  # views are [B, C, size, size]
    rotation: float = 0.0  # largest angle in degrees, about the centre, black outside
    scale: tuple[float, float] = (1.0, 1.0)  # area of the crop as a share of the image
    ratio: tuple[float, float] = (1.0, 1.0)  # width / height of the crop, log-uniform
    flip: float = 0.0  # probability
    jitter: float = 0.0  # probability of the next four, in random order
    brightness: float = 0.0  # the factor is in 1 ± this; the same for the next two
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # largest shift, in turns of the colour circle
    gray: float = 0.0  # probability
    blur: float = 0.0  # probability
    sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, in pixels
    compile: bool = False  # use torch.compile, which takes seconds at the start and is then faster

    @property
    def kernel(self) -> int:
        """Width of the blur, a tenth of the image and odd (Chen et al. 2020, appendix A)."""
        return self.size // 10 | 1


def policy(name: str, size: int) -> Policy:
    """The policy of a name, for views of a size; `UserError` for an unknown name.

    - "simclr": Chen et al. 2020 (arXiv 2002.05709), appendix A, colour strength 1. Up to 64 pixels
      it is their CIFAR-10 setting (appendix B.9): the same Inception crop of 8 to 100% of the area,
      colour strength 0.5, no blur. These are the numbers of lightly's SimCLRTransform, with the
      cj_strength=0.5 that it advises for small images, and gaussian_blur=0.
    - "moco": MoCo v2, Chen et al. 2020 (arXiv 2003.04297): colour strength 0.5 at every size, crops
      of at least 20% of the area; no blur up to 64 pixels.
    - "crop": crop and small rotation, for digits and other shapes on black: a flip would change
      their class, and colours carry no information.
    - "none": the image (its central square, if it is not square).
    """
    inception = Policy(
        size,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=0.8,
        gray=0.2,
        blur=0.5 if size > 64 else 0.0,
    )
    s = 1.0 if size > 64 else 0.5
    policies = {
        "simclr": replace(
            inception, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s
        ),
        "moco": replace(
            inception, scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
        ),
        "crop": Policy(size, rotation=20.0, scale=(0.4, 1.0), ratio=(5 / 8, 8 / 5)),
        "none": Policy(size),
    }
    if name not in policies:
        raise UserError(f"data.augment: there is no '{name}'{nearest(name, policies)}")
    return policies[name]


class Parameters(NamedTuple):
    """The random parameters of each image of a batch."""

    angle: Tensor  # float [B], degrees counter-clockwise
    box: Tensor  # int64 [B, 4]: top, left, height, width
    flip: Tensor  # bool [B]
    jitter: Tensor  # bool [B]
    order: Tensor  # int64 [B, 4], numbers of `colour`'s operations
    strength: Tensor  # float [B, 4], one per colour operation
    gray: Tensor  # bool [B]
    blur: Tensor  # bool [B]
    sigma: Tensor  # float [B]


COLUMNS = 2 * ATTEMPTS + 16  # uniform numbers for a view


def draw(images: int, height: int, width: int, rng: KeyedRNG, policy: Policy) -> Parameters:
    """Parameters for B images of H x W, drawn on the CPU, so that all devices get equal views."""
    return parameters(_uniform(images, rng), height, width, policy)


def _uniform(images: int, rng: KeyedRNG) -> Tensor:
    return rng.on("cpu").uniform("view", images, COLUMNS)


def parameters(u: Tensor, height: int, width: int, policy: Policy) -> Parameters:
    """Parameters for images of H x W from uniform numbers [B, 36]."""
    shape, place, u = u.split([2 * ATTEMPTS, 2, 14], 1)
    # these parameters need one uniform number each; those that need several follow
    rotation, flip, jittered, gray, blur, sigma, hue = u[:, :7].unbind(1)
    spread = torch.tensor([policy.brightness, policy.contrast, policy.saturation])
    factor = _between((1 - spread).clamp(min=0), 1 + spread, u[:, 7:10])
    return Parameters(
        angle=_between(-policy.rotation, policy.rotation, rotation),
        box=crop_boxes(shape.unflatten(1, (ATTEMPTS, 2)), place, height, width, policy),
        flip=flip < policy.flip,
        jitter=jittered < policy.jitter,
        order=u[:, 10:14].argsort(1),
        strength=torch.cat([factor, _between(-policy.hue, policy.hue, hue)[:, None]], dim=1),
        gray=gray < policy.gray,
        blur=blur < policy.blur,
        sigma=_between(*policy.sigma, sigma),
    )


def _between(low: float | Tensor, high: float | Tensor, u: Tensor) -> Tensor:
    """Uniform numbers in [low, high) from uniform ones in [0, 1)."""
    return low + (high - low) * u


def crop_boxes(shape: Tensor, place: Tensor, height: int, width: int, policy: Policy) -> Tensor:
    """Boxes (top, left, height, width), int64 [B, 4], from uniform numbers: shape [B, attempts, 2]
    and place [B, 2].

    As in torchvision's RandomResizedCrop, the area is uniform in `scale` and the ratio is
    log-uniform in `ratio`. The box is the first attempt that fits into the image. If none fits, it
    is the largest central box whose ratio is allowed.
    """
    least, most = policy.ratio
    area = height * width * (policy.scale[0] + (policy.scale[1] - policy.scale[0]) * shape[..., 0])
    ratio = torch.exp(math.log(least) + math.log(most / least) * shape[..., 1])
    sides = (
        torch.stack([area / ratio, area * ratio], dim=-1).sqrt().round().long()
    )  # [B, attempts, (height, width)]
    limit = torch.tensor([height, width])
    fits = ((sides > 0) & (sides <= limit)).all(-1)
    first = fits.int().argmax(1)
    drawn = sides[torch.arange(len(sides)), first]
    corner = (place * (limit - drawn + 1)).long()
    central = torch.tensor([min(height, round(width / least)), min(width, round(height * most))])
    some = fits.any(1, keepdim=True)
    return torch.where(
        torch.cat([some, some], 1).repeat(1, 2),
        torch.cat([corner, drawn], 1),
        torch.cat([(limit - central) // 2, central]),
    )


def augment(image: Tensor, rng: KeyedRNG, policy: Policy) -> Tensor:
    """One view of each image, uint8 [B, C, H, W] to [B, C, S, S]."""
    return augmented(image, [rng], policy)[0]


def augmented(image: Tensor, rngs: Sequence[KeyedRNG], policy: Policy) -> tuple[Tensor, ...]:
    """As `augment`, with one view for each of `rngs`."""
    height, width = image.shape[2:]
    if replace(policy, compile=False) == Policy(policy.size) and height == width == policy.size:
        return (image,) * len(rngs)
    uniform = [_uniform(len(image), rng) for rng in rngs]
    if not (policy.rotation or policy.blur) and fused_views.serves(image, policy.size):
        # for all views at once, because each operation on the CPU delays a GPU
        rows = packed(parameters(torch.cat(uniform), height, width, policy))
        rows = to_device(rows, image.device).unflatten(0, (len(rngs), -1))
        return fused_views.make(image, rows, policy.size).unbind(0)
    return tuple(apply(image, parameters(u, height, width, policy), policy) for u in uniform)


def packed(drawn: Parameters) -> Tensor:
    """The parameters of `fused_views`, float32 [B, 27]: box, mirror, three mixtures, hue shift,
    three mixtures, and the mixture of the gray image.
    """
    work = prepare(drawn, torch.device("cpu"))
    before, shift, after = work.colour
    parts = (work.box, work.flip[:, None], before.flatten(1), shift[:, None], after.flatten(1))
    return torch.cat([part.float() for part in (*parts, work.gray)], 1)


class Work(NamedTuple):
    """The operations on each image of a batch, on its device."""

    angle: Tensor  # angle, box, flip, sigma and blur are those of `Parameters`
    box: Tensor
    flip: Tensor
    colour: Steps
    # float [B, 3]: the mixture that makes the gray image, or the one that changes nothing
    gray: Tensor
    sigma: Tensor
    blur: Tensor


def apply(image: Tensor, drawn: Parameters, policy: Policy) -> Tensor:
    """The views of uint8 [B, C, H, W] for these parameters."""
    if policy.compile:
        return _compiled()(image, prepare(drawn, image.device), policy)
    by = hue_turn(drawn.jitter, drawn.order).argsort(
        stable=True
    )  # images that `jitter` treats in the same way are adjacent
    drawn, here = each(drawn, lambda values: values[by]), to_device(by, image.device)
    work = prepare(drawn, image.device)
    out = image.new_empty(len(image), image.shape[1], policy.size, policy.size)

    def make(block: slice) -> None:
        part, known = (each(values, lambda values: values[block]) for values in (work, drawn))
        out[block] = in_part(image.index_select(0, here[block]), part, known, policy)

    in_blocks(make, len(out), out[0].numel(), out.device)
    return out.index_select(0, here.argsort())


def each(values: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The named tuple with `function` applied to each of its tensors."""
    return (
        function(values)
        if isinstance(values, Tensor)
        else type(values)(*(each(value, function) for value in values))
    )


def leaves(values: Any) -> list[Tensor]:
    """The tensors of a named tuple, in the order of `each`."""
    if isinstance(values, Tensor):
        return [values]
    return [leaf for value in values for leaf in leaves(value)]


def prepare(drawn: Parameters, device: torch.device) -> Work:
    """The operations on each image, copied together to the device."""
    gray = torch.where(drawn.gray[:, None], torch.tensor(GRAY), torch.tensor(SAME))
    work = Work(
        drawn.angle,
        drawn.box,
        drawn.flip,
        steps(drawn.jitter, drawn.order, drawn.strength),
        gray,
        drawn.sigma,
        drawn.blur,
    )
    moved = iter(send(leaves(work), device))
    return each(work, lambda values: next(moved))


def in_part(image: Tensor, work: Work, known: Parameters, policy: Policy) -> Tensor:
    """Views of images that are sorted by `hue_turn`. Each step runs only on the images that it
    changes. `known` is on the CPU, so finding these images does not wait for the device.
    """
    x = cut_out(image, work, policy)
    if policy.jitter:
        jitter(x.unbind(1), work.colour, hue_turn(known.jitter, known.order))
    if policy.gray:
        grayscale(x.unbind(1), to_device(torch.nonzero(known.gray).squeeze(1), x.device))
    if policy.blur:
        which = to_device(torch.nonzero(known.blur).squeeze(1), x.device)
        x[which] = gaussian_blur(
            x.index_select(0, which), work.sigma.index_select(0, which), policy.kernel
        )
    return to_bytes(x)


def as_a_whole(image: Tensor, work: Work, policy: Policy) -> Tensor:
    """Views. Each step runs on all images, because torch.compile needs constant shapes."""
    x = cut_out(image, work, policy)
    if policy.jitter or policy.gray:
        planes = [
            plane.clone() for plane in x.unbind(1)
        ]  # the compiler fuses operations on whole tensors, but not on slices
        if policy.jitter:
            jitter(planes, work.colour)
        if policy.gray:
            mix(planes, work.gray)
        x = torch.stack(planes, 1)
    if policy.blur:
        x = torch.where(work.blur.view(-1, 1, 1, 1), gaussian_blur(x, work.sigma, policy.kernel), x)
    return to_bytes(x)


@functools.cache
def _compiled() -> Callable[[Tensor, Work, Policy], Tensor]:
    return torch.compile(as_a_whole)


def cut_out(image: Tensor, work: Work, policy: Policy) -> Tensor:
    """Images as floats in [0, 1], rotated, cropped, resized, mirrored."""
    x = rotate(as_float(image), work.angle) if policy.rotation else image
    return resized_crop(x, work.box, work.flip, policy.size)


def to_bytes(x: Tensor) -> Tensor:
    """The nearest of 256 levels. Converting to int first is faster than a direct conversion to
    bytes.
    """
    return x.mul_(255).add_(0.5).int().byte()


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate counter-clockwise by degrees [B] about the centre: bilinear, black outside."""
    height, width = x.shape[2:]
    turn = angle.to(x.device).deg2rad()
    cos, sin, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
    rows = (cos, -sin * (height / width), zero), (sin * (width / height), cos, zero)
    inverse = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return grid_sample(
        x, affine_grid(inverse, list(x.shape), align_corners=False), align_corners=False
    )


def gaussian_blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of deviation [B] pixels and odd width `kernel`; edges are mirrored."""
    sigma = sigma.to(x.device)
    return separable(
        x, blur_weights(sigma, x.shape[2], kernel), blur_weights(sigma, x.shape[3], kernel)
    )


def blur_weights(sigma: Tensor, n: int, kernel: int) -> Tensor:
    """The blur of one axis as a matrix [B, n, n]; pixels beyond the edges are mirrored."""
    place = torch.arange(n, device=sigma.device)
    out, pixel = place.view(n, 1), place.view(1, n)
    weight = torch.zeros(len(sigma), n, n, device=sigma.device)
    for twin, exists in (
        (pixel, pixel >= 0),
        (-pixel, pixel > 0),
        (2 * (n - 1) - pixel, pixel < n - 1),
    ):
        distance = out - twin
        weight += torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1)) ** 2) * (
            (distance.abs() <= kernel // 2) & exists
        )
    return weight / weight.sum(-1, keepdim=True)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows x columns^T for each channel: [B, C, H, W], [B, S, H], [B, T, W] to [B, C, S, T]."""
    return rows[:, None] @ (x.flatten(1, 2) @ columns.mT).unflatten(1, x.shape[1:3])
