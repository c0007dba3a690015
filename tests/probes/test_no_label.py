"""A label of -1, which many data sets use for "no label", is refused wherever labels are read."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.hub_sets import _named
from core.data.images import require_labels
from core.data.pictures import open_pictures
from core.errors import UserError
from core.foreign import arrays
from core.numbers import means_unlabelled
from probes import knn, linear


def features(classes, n=60):
    y = np.random.default_rng(0).choice(classes, n)
    return np.random.default_rng(1).normal(size=(n, 3)) + 4 * y[:, None], y


@pytest.mark.parametrize("probe", [linear, knn])
@pytest.mark.parametrize("side", ["train_y", "test_y"])
def test_arrays_with_unlabelled_rows_are_refused(probe, side):
    x, y = features([0, 1, 2])
    labels = {"train_y": y.copy(), "test_y": y.copy()}
    labels[side][7] = -1
    with pytest.raises(
        UserError, match=rf"^{side}: has the label -1, which usually means .* no label"
    ):
        probe(x, labels["train_y"], x, labels["test_y"])


def test_minus_one_and_one_are_two_classes():
    x, y = features([-1, 1])
    assert linear(x, y, x, y)["top1"] == 1.0
    x, y = features([-2, -1, 0])
    assert linear(x, y, x, y)["top1"] > 0.9
    assert not means_unlabelled(["-1", "cat"]) and means_unlabelled([-1])


def test_a_file_of_features_says_which_row(tmp_path):
    x, y = features([0, 1, 2])
    y[5] = -1
    np.savez(tmp_path / "f.npz", x_train=x, y_train=abs(y), x_test=x, y_test=y)
    with pytest.raises(UserError, match="y_test has the label -1 in row 5; .* leave the row out"):
        arrays.read(tmp_path / "f.npz")


def pictures(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


def test_a_list_and_folders_of_pictures(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    pictures(tmp_path, names)
    rows = [f"{name},{label}" for name, label in zip(names, [0, 1, 0, -1, 1, 0], strict=True)]
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(UserError, match=r"3\.png has label = -1, .* data.labels=none"):
        open_pictures(tmp_path, "l.csv")
    assert not open_pictures(tmp_path, "l.csv", "none").factors
    pictures(tmp_path / "f", [f"train/{c}/{i}.png" for c in ("-1", "0", "1") for i in range(3)])
    with pytest.raises(UserError, match="has class = -1"):
        open_pictures(tmp_path / "f")


def test_labels_of_stored_sets():
    with pytest.raises(UserError, match="from -1 to 1, .*-1 usually means that an image has no"):
        require_labels(torch.tensor([0, -1, 1]), {"class": 2}, "x (test)")


class Table(dict):
    """A table of Hugging Face's library: columns, and their kinds in `features`."""

    def __init__(self, values, names):
        super().__init__(label=values)
        self.features = {"label": SimpleNamespace(names=names)}


@pytest.mark.parametrize("names", [["cat", "dog"], None])
@pytest.mark.parametrize("missing", [-1, None, 2])
def test_a_set_of_hugging_face_without_some_labels(missing, names):
    """-1 must not read the last name of the list of classes."""
    assert _named(Table([0, 1], names), "label") == (names or ["0", "1"])
    held = Table([0, missing, 1], names)
    if missing is not None and names is None:
        assert _named(held, "label")[1] == str(missing)  # Pictures refuses -1
        return
    with pytest.raises(UserError, match=f"row 1 has the label {missing}, which is no class"):
        _named(held, "label")
