"""Pictures of rows of images: their names, captions and pixels."""

import pytest
import torch
from PIL import Image, ImageDraw

from core.run.pictures import Grid, save_grid
from vae.beta import BetaVAE, BetaVAEConfig
from vae.figures import reconstructions, traversals


@pytest.fixture
def written(monkeypatch):
    """The texts that are drawn, with their places."""
    held, plain = {}, ImageDraw.ImageDraw.text

    def text(draw, place, text, *given):
        held[text] = place
        return plain(draw, place, text, *given)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return held


def test_a_grid_names_its_rows_and_columns_and_every_image(tmp_path, written):
    rows = [torch.full((3, 3, 8, 8), value) for value in (0.0, 1.0)]
    captions = [["a", "b", "c"], ["d", "$x$\n", "f" * 80]]
    grid = Grid(rows, ["first", "second_$y$"], ["one", "two", "three"], captions, "a title")
    save_grid(tmp_path / "grid.png", grid)
    cut = next(text for text in written if text.startswith("ff"))
    order = ["a title", "one", "two", "three", "first", "second_$y$", *"abcd", "$x$ ", cut]
    assert list(written) == order and len(cut) <= 24
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = torch.tensor(list(picture.convert("L").getdata())).view(picture.height, -1)
    (left, first), (_, second) = written["first"], written["second_$y$"]
    black = (pixels[:, int(left) :] == 0).sum(1)
    assert (black == 3 * 64).sum() == 64 and not (black > 3 * 64).any(), "three black squares"
    above, under = (int((black == 3 * 64).nonzero()[end]) for end in (0, -1))
    assert above < first < under < second
    for column, caption in zip(("one", "two", "three"), "abc", strict=True):
        (x, head), (same, foot) = written[column], written[caption]
        assert x == same and left < x and head <= above and under < foot < second
        assert (pixels[above : under + 1, int(x)] == 0).all(), "in the middle of a square"


@pytest.mark.parametrize("names", [["W" * 24], []])
def test_nothing_that_is_written_is_cut_off(tmp_path, names):
    grid = Grid([torch.ones(2, 1, 8, 8)], names, ["W" * 24, "M" * 24], (), "W" * 60)
    save_grid(tmp_path / "grid.png", grid)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = torch.tensor(list(picture.convert("L").getdata())).view(picture.height, -1)
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert (edge == 255).all()


def test_plain_rows_are_pixels_alone(tmp_path, written):
    save_grid(tmp_path / "plain.png", [torch.zeros(2, 1, 4, 4, dtype=torch.uint8)], side=8)
    with Image.open(tmp_path / "plain.png") as picture:
        assert picture.size == (2 * (2 * (4 + 2) + 2), 2 * (4 + 2 + 2)) and not written


def test_images_without_colours_show_the_mean_of_their_channels(tmp_path):
    rows = [torch.arange(5, dtype=torch.uint8)[None, :, None, None].expand(1, 5, 4, 4) * 10]
    for row in (rows, [rows[0].float() / 255]):
        save_grid(tmp_path / "grid.png", row, side=4)
        with Image.open(tmp_path / "grid.png") as picture:
            assert picture.getpixel((4, 4)) == (20, 20, 20)


def test_a_traversal_says_its_dimension_and_its_values():
    torch.manual_seed(0)
    method = BetaVAE(BetaVAEConfig(width=4, latent=3), (1, 16, 16)).eval()
    x = torch.rand(6, 1, 16, 16)
    grid = traversals(method, x, columns=5)
    order = method.posterior(x).mean.var(0, correction=0).argsort(descending=True).tolist()
    assert grid.names == [f"z {dimension}" for dimension in order]
    assert grid.columns == ["−2.5", "−1.2", "+0.0", "+1.2", "+2.5"]
    assert [len(row) for row in grid] == [5, 5, 5]
    assert reconstructions(method, x).names == ["image", "reconstruction"]
