"""A reader of the contents of sprites; it shares no code with the encoders."""

import math

import torch

from core.data.sprites import SIDE, SpritesConfig, coverage


def read(images: torch.Tensor, config: SpritesConfig) -> torch.Tensor:
    """The contents [B, F] of images. The reader knows how sprites are drawn, but not the nuisance.

    The background is a plane in each channel, fitted to pixels without sprite. The remainder is
    coverage times the difference of two colours. Shape, size and cell are those of the nearest
    rendered template; dividing by this template gives the sprite's colour.
    """
    x = images.double() / 255
    plane = background(x)  # [B, 3, 3]
    ground = (plane @ GRID.T).unflatten(2, (SIDE, SIDE))  # [B, 3, S, S]
    rest = (x - ground).flatten(2)
    strongest = rest.square().sum(1).topk(8).indices
    contrast = rest.gather(2, strongest[:, None].expand(-1, 3, -1)).mean(2)
    places = 5 if config.grid == 1 else 3  # about a pixel apart
    angles, steps = torch.arange(24) * 2 * math.pi / 24, torch.linspace(-1, 1, places)
    ranges = [torch.arange(n) for n in (config.shapes, config.sizes, config.grid, config.grid)]
    what = torch.cartesian_prod(
        *ranges, torch.arange(24), torch.arange(places), torch.arange(places)
    )
    content = torch.stack(
        [what[:, 0], torch.zeros(len(what), dtype=torch.long), what[:, 1], what[:, 2], what[:, 3]],
        1,
    )
    templates = coverage(
        content, angles[what[:, 4]], torch.stack([steps[what[:, 5]], steps[what[:, 6]]], 1), config
    ).flatten(1)
    # least squares with any brightness: the best template has the largest projection
    unit = templates / templates.norm(dim=1, keepdim=True)
    best = ((contrast[:, None] @ rest)[:, 0].float() @ unit.T).argmax(1)
    found, cover = content[best].clone(), templates[best].double()[:, None]
    colour = ((x.flatten(2) - ground.flatten(2) * (1 - cover)) * cover).sum(2) / cover.square().sum(
        2
    )
    found[:, 1] = nearest(hue(colour), config.colours)
    mean, slope_x, slope_y = plane.unbind(2)
    extra = []
    if config.backgrounds > 1:
        extra.append(nearest(hue(mean), config.backgrounds))
    if config.gradients > 1:
        extra.append(
            nearest(torch.atan2(slope_y.sum(1), slope_x.sum(1)) / (2 * math.pi), config.gradients)
        )
    return torch.stack([*found.unbind(1), *extra], 1)


ROW, COLUMN = (
    ((torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)) + 0.5) / SIDE - 0.5)
    .double()
    .unbind(1)
)
GRID = torch.stack(
    [torch.ones(SIDE**2).double(), COLUMN, ROW], 1
)  # mean, slope along x, slope along y


def background(x: torch.Tensor) -> torch.Tensor:
    """Mean and slopes of the background's plane in each channel, [B, 3, 3], by least squares on the
    outermost pixels.

    A sprite covers few of them; they are left out of a second fit.
    """
    edge = torch.maximum(ROW.abs(), COLUMN.abs()) > 0.5 - 2 / SIDE
    design, pixels = GRID[edge], x.flatten(2)[:, :, edge]
    plane = pixels @ torch.linalg.pinv(design).T
    for _ in range(3):
        away = (pixels - plane @ design.T).abs().amax(1)  # [B, edge]
        weight = (away <= (3 * away.median(1, keepdim=True).values).clamp(min=0.1)).double()[
            :, None
        ]
        normal = (design.T * weight) @ design  # [B, 3, 3]
        plane = torch.linalg.solve(normal, ((pixels * weight) @ design).mT).mT
    return plane


def hue(colour: torch.Tensor) -> torch.Tensor:
    """Hues [B] in turns of colours [B, 3]."""
    r, g, b = colour.unbind(1)
    return torch.atan2(math.sqrt(3) * (g - b), 2 * r - g - b) / (2 * math.pi)


def nearest(turns: torch.Tensor, count: int) -> torch.Tensor:
    """The nearest of `count` evenly spaced hues or directions."""
    return (turns * count).round().long() % count
