"""Test images that are also training images are counted and said."""

from types import SimpleNamespace

import pytest
import torch

from core.data.images import Arrays
from probes.views.duplicates import said_of_leaks
from tests.probed import call, saved

IMAGES = torch.randint(0, 256, (30, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


def frozen(train, test, has_images=True):
    splits = {
        name: Arrays(images, torch.zeros(len(images), 1).long(), {"class": 1})
        for name, images in (("trainval", train), ("test", test))
    }
    return SimpleNamespace(has_images=has_images, source=splits.__getitem__)


@pytest.mark.parametrize("shared", [0, 1, 7])
def test_shared_images_are_counted(shared):
    said = said_of_leaks(frozen(IMAGES[:20], IMAGES[20 - shared :]))
    assert said.startswith(f"{shared} of {10 + shared} test images") if shared else said == ""


def test_another_pixel_is_another_image():
    other = IMAGES.clone()
    other[:, 0, 0, 0] ^= 1
    assert said_of_leaks(frozen(IMAGES, other)) == ""
    assert said_of_leaks(frozen(IMAGES[:, :1], IMAGES[:5, :1])).startswith("5 of 5")
    assert said_of_leaks(frozen(IMAGES, IMAGES, has_images=False)) == ""


def test_a_probe_of_pictures_says_it_and_rendered_images_have_no_copies(tmp_path, capsys):
    from PIL import Image

    for place in (*(f"train/{i % 2}/{i}" for i in range(20)), "test/0/0", "test/1/1", "test/1/x"):
        path = tmp_path / "data" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        number = 29 if path.stem == "x" else int(path.stem)
        Image.fromarray(IMAGES[number].permute(1, 2, 0).numpy()).resize((32, 32)).save(path)
    saved(tmp_path / "run")
    data = ("data.name=folder", f"data.root={tmp_path / 'data'}", "data.validation=4")
    call(tmp_path / "run", *data, "--probes", "knn")
    assert "2 of 3 test images are also among the training images" in capsys.readouterr().out
    call(tmp_path / "run", "--probes", "knn")
    assert "also among" not in capsys.readouterr().out


def test_it_is_said_that_streamed_images_were_not_compared(tmp_path, capsys):
    from PIL import Image

    for place in (*(f"train/{i % 2}/{i}" for i in range(20)), "test/0/0", "test/1/1"):
        path = tmp_path / "data" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = IMAGES[int(path.stem)].permute(1, 2, 0).numpy()
        Image.fromarray(image).resize((32, 32)).save(path)
    saved(tmp_path / "run")
    data = ("data.name=folder", f"data.root={tmp_path / 'data'}", "data.validation=4")
    for memory, said in (("0", "not looked for: test images"), ("1", "2 of 2 test images")):
        call(tmp_path / "run", *data, f"data.memory={memory}", "data.workers=0", "--probes", "knn")
        out = " ".join(capsys.readouterr().out.split())
        assert said in out and ("not looked for" in out) == (memory == "0")
    call(tmp_path / "run", "--probes", "knn")
    assert "not looked for" not in capsys.readouterr().out
