"""The Triton kernel of `core.data.fused_views`, one program per image and view. Imported only if
Triton is installed.
"""

import triton
import triton.language as tl

from core.data.colour import LUMA, TINY

RED, GREEN, BLUE = (tl.constexpr(share) for share in LUMA)
LEAST = tl.constexpr(TINY)


@triton.jit
def weights(start, length, mirrored, size, SIDE: tl.constexpr):
    """Weights of pixels (columns) in output pixels (rows), [SIDE, SIDE], as in `resize.taps`."""
    out = tl.arange(0, SIDE)[:, None].to(tl.float32)
    pixel = tl.arange(0, SIDE)[None, :].to(tl.float32) - start
    scale = length / size
    half = tl.maximum(scale, 1.0)
    centre = scale * (out + 0.5)
    centre = tl.where(mirrored > 0, length - centre, centre)
    share = tl.maximum(1.0 - tl.abs(pixel + 0.5 - centre) / half, 0.0)
    share = tl.where((pixel >= 0) & (pixel < length) & (out < size), share, 0.0)
    return share / tl.maximum(tl.sum(share, 1), 1e-30)[:, None]


@triton.jit
def plane(image, channel, rows, columns, height, width, SIDE: tl.constexpr):
    """One channel, cropped and resized, in [0, 1]."""
    y, x = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    inside = (y < height) & (x < width)
    pixels = tl.load(image + (channel * height + y) * width + x, mask=inside, other=0)
    down = tl.dot(rows, pixels.to(tl.float32) / 255.0, input_precision="ieee")
    return tl.dot(down, tl.trans(columns), input_precision="ieee")


@triton.jit
def mixed(red, green, blue, weight, inside, pixels):
    """`colour.mix` of three planes; `weight` points at (own, gray, level)."""
    own, gray, level = tl.load(weight), tl.load(weight + 1), tl.load(weight + 2)
    y = red * RED + green * GREEN + blue * BLUE
    mean = tl.sum(tl.sum(tl.where(inside, y, 0.0), 1), 0) / pixels
    rest = y * gray + mean * level
    red = tl.minimum(tl.maximum(red * own + rest, 0.0), 1.0)
    green = tl.minimum(tl.maximum(green * own + rest, 0.0), 1.0)
    blue = tl.minimum(tl.maximum(blue * own + rest, 0.0), 1.0)
    return red, green, blue


@triton.jit
def turned(red, green, blue, shift):
    """`colour.turn_hue`."""
    least = tl.minimum(tl.minimum(green, blue), red)
    chroma = tl.maximum(tl.maximum(green, blue), red) - least
    hue = tl.abs((green + blue - red - least) / tl.maximum(chroma, LEAST) + 1.0)
    hue = tl.where(green - blue < 0, -hue, hue) + 6.0 * shift
    hue = hue - 6.0 * tl.floor(hue / 6.0 + 0.5)
    base = least - chroma
    red = tl.minimum(tl.maximum(tl.abs(tl.abs(hue) - 3.0), 1.0), 2.0) * chroma + base
    green = tl.minimum(tl.maximum(tl.abs(hue + 1.0), 1.0), 2.0) * chroma + base
    blue = tl.minimum(tl.maximum(tl.abs(hue - 1.0), 1.0), 2.0) * chroma + base
    return red, green, blue


@triton.jit
def gray_level(value, weight, inside, pixels):
    """`colour.mix` of the only plane."""
    own, gray, level = tl.load(weight), tl.load(weight + 1), tl.load(weight + 2)
    mean = tl.sum(tl.sum(tl.where(inside, value, 0.0), 1), 0) / pixels
    return tl.minimum(tl.maximum(value * (own + gray) + mean * level, 0.0), 1.0)


@triton.jit
def store(out, value, channel, size, SIDE: tl.constexpr):
    y, x = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    level = (value * 255.0 + 0.5).to(tl.int32).to(tl.uint8)
    tl.store(out + (channel * size + y) * size + x, level, mask=(y < size) & (x < size))


@triton.jit
def views(
    images,
    parameters,
    outs,
    count,
    height,
    width,
    size,
    CHANNELS: tl.constexpr,
    SIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64) * count + number
    given = parameters + row * COLUMNS
    image = images + number * CHANNELS * height * width
    out = outs + row * CHANNELS * size * size
    mirrored = tl.load(given + 4)
    rows = weights(tl.load(given), tl.load(given + 2), mirrored * 0, size, SIDE)
    columns = weights(tl.load(given + 1), tl.load(given + 3), mirrored, size, SIDE)
    y, x = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    inside, pixels = (y < size) & (x < size), size * size
    red = plane(image, 0, rows, columns, height, width, SIDE)
    if CHANNELS == 3:
        green = plane(image, 1, rows, columns, height, width, SIDE)
        blue = plane(image, 2, rows, columns, height, width, SIDE)
        for j in tl.static_range(3):
            red, green, blue = mixed(red, green, blue, given + 5 + 3 * j, inside, pixels)
        red, green, blue = turned(red, green, blue, tl.load(given + 14))
        for j in tl.static_range(4):  # the last one is the gray image
            red, green, blue = mixed(red, green, blue, given + 15 + 3 * j, inside, pixels)
        store(out, green, 1, size, SIDE)
        store(out, blue, 2, size, SIDE)
    else:
        for j in tl.static_range(3):
            red = gray_level(red, given + 5 + 3 * j, inside, pixels)
        for j in tl.static_range(4):
            red = gray_level(red, given + 15 + 3 * j, inside, pixels)
    store(out, red, 0, size, SIDE)
