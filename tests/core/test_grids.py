"""Pictures of rows of images: their names, captions and pixels."""

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from core.run.pictures import Grid, save_grid
from vae.beta import BetaVAE, BetaVAEConfig
from vae.figures import reconstructions, traversals


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in order."""
    held, plain = [], Figure.draw

    def draw(figure, *given):
        held.append(figure)
        return plain(figure, *given)

    monkeypatch.setattr(Figure, "draw", draw)
    return held


def texts(figure, which):
    (axes,) = figure.axes
    return [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]


def test_a_grid_names_its_rows_and_columns_and_every_image(tmp_path, drawn):
    rows = [torch.full((3, 3, 8, 8), value) for value in (0.0, 1.0)]
    captions = [["a", "b", "c"], ["d", "$x$", "f" * 80]]
    grid = Grid(rows, ["first", "second_$y$"], ["one", "two", "three"], captions, "a title")
    save_grid(tmp_path / "grid.png", grid)
    (figure,) = drawn
    assert texts(figure, "y") == ["first", r"second_\$y\$"]
    assert texts(figure, "x") == ["one", "two", "three"]
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown[:5] == ["a", "b", "c", "d", r"\$x\$"] and len(shown[5]) <= 24
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = torch.tensor(list(picture.convert("L").getdata())).view(picture.height, -1)
    rows_of_black = [int((line == 0).sum()) for line in pixels if (line == 0).sum() > 150]
    assert len(rows_of_black) >= 60 and len(set(rows_of_black)) <= 2, "three black squares"


def test_plain_rows_are_pixels_alone(tmp_path, drawn):
    save_grid(tmp_path / "plain.png", [torch.zeros(2, 1, 4, 4, dtype=torch.uint8)], side=8)
    with Image.open(tmp_path / "plain.png") as picture:
        assert picture.size == (2 * (2 * (4 + 2) + 2), 2 * (4 + 2 + 2)) and not drawn


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
