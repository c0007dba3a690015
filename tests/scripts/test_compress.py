"""compress and decompress as a user calls them: a round trip, and one line for every mistake."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from scripts.compress import main as compress
from scripts.decompress import arguments as arguments_of_decompress
from scripts.decompress import main as decompress
from tests.small_vaes import saved
from vae.bitsback import BitsBack, Parts
from vae.unfinished import unfinished


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the run "run", a folder "pictures" of 12 PNGs, and their file "all.tb"."""
    top = tmp_path_factory.mktemp("compress")
    saved(top / "run")
    (top / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):  # natural order: 2 before 10
        pixels = rng.integers(100, 150, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(top / "pictures" / f"{number}.png")
    compress([*words(top / "run", top / "pictures", "-o", top / "all.tb", "--block", 5)])
    return top


def words(*given: object) -> list[str]:
    return [str(word) for word in given]


def error(call, *given: object, capsys) -> str:
    """The one line of a call that fails with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call(words(*given))
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and line.startswith("error: ")
    return line


def pixels_of(folder: Path) -> np.ndarray:
    files = sorted(folder.iterdir(), key=lambda file: int(file.stem))
    return np.stack([np.asarray(Image.open(file)) for file in files])


def test_pictures_come_back_as_pictures_and_as_an_npz_that_compresses_to_the_same_bits(
    place, tmp_path, capsys
):
    decompress(words(place / "run", place / "all.tb", "-o", tmp_path / "png", "--rows", 2))
    assert "12 images (png), every checksum agrees" in capsys.readouterr().out
    expected = pixels_of(place / "pictures")
    assert (pixels_of(tmp_path / "png") == expected).all()
    decompress(words(place / "run", place / "all.tb", "-o", tmp_path / "npz", "--as", "npz"))
    images = np.load(tmp_path / "npz" / "images.npz")["images"]
    assert images.dtype == np.uint8 and (images == expected.transpose(0, 3, 1, 2)).all()
    given = (place / "run", tmp_path / "npz" / "images.npz", "-o", tmp_path / "again.tb")
    compress(words(*given, "--block", 5, "--rows", 3, "--check"))
    first, second = ((place / "all.tb").read_bytes(), (tmp_path / "again.tb").read_bytes())
    assert [a != b for a, b in zip(first[:-4], second[:-4], strict=True)].count(True) <= 5  # kind
    only = (place / "run", place / "all.tb", "-o", tmp_path / "some", "--only", "4:7")
    decompress(words(*only))
    assert sorted(file.name for file in (tmp_path / "some").iterdir()) == [
        "4.png",
        "5.png",
        "6.png",
    ]
    assert (pixels_of(tmp_path / "some") == expected[4:7]).all()


def test_a_split_of_the_runs_own_data_is_compressed_at_256_levels(place, tmp_path, capsys):
    given = (place / "run", "test", "-o", tmp_path / "test.tb", "--images", 20)
    compress(words(*given, "data.sprites.test=64"))
    out = capsys.readouterr().out
    assert "20 images in" in out and "bits/dim (net" in out
    decompress(words(place / "run", tmp_path / "test.tb", "-o", tmp_path / "images"))
    assert np.load(tmp_path / "images" / "images.npz")["images"].shape == (20, 3, 32, 32)


def test_mistakes_of_compress_are_one_line_and_write_nothing(place, tmp_path, capsys):
    out, run = tmp_path / "out.tb", place / "run"
    np.savez(tmp_path / "small.npz", images=np.zeros((3, 3, 8, 8), np.uint8))
    np.savez(tmp_path / "reals.npz", images=np.zeros((3, 3, 32, 32)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    grey = saved(tmp_path / "binary", likelihood="bernoulli")
    dense = saved(tmp_path / "dense", likelihood="normal")
    for given, said in (
        ((run, tmp_path / "small.npz"), "its images are 3x8x8 (channels, height, width), but the"),
        ((run, tmp_path / "reals.npz"), "images is 'float64'"),
        ((run, tmp_path / "nothing.npz"), "there is no such file"),
        ((run, tmp_path / "empty"), "holds no pictures"),
        ((run, tmp_path / "broken"), "a.png: can not be read as a picture"),
        ((run, "tset"), "a split of the checkpoint's data (did you mean 'test'?)"),
        ((run, "test", "model.width=3"), "only data.key=value can be overridden"),
        ((run, place / "pictures", "--block", 0), "--block: must be from 1 to 65536, got 0"),
        ((grey, place / "pictures"), "has no probability: the model's likelihood is bernoulli"),
        ((dense, place / "pictures"), "normal is a density"),
        ((tmp_path / "empty", "test"), "last.ckpt"),
    ):
        assert said in error(compress, *given, "-o", out, capsys=capsys)
    assert not list(tmp_path.glob("*.tb")) and not list(tmp_path.glob(".*"))


def test_mistakes_of_decompress_are_one_line_and_write_nothing(place, tmp_path, capsys):
    run, file, out = place / "run", place / "all.tb", tmp_path / "out"
    data = file.read_bytes()
    (tmp_path / "cut.tb").write_bytes(data[:-9])
    (tmp_path / "flipped.tb").write_bytes(data[:300] + bytes([data[300] ^ 4]) + data[301:])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    other = saved(tmp_path / "other", seed=1)
    for given, said in (
        ((run, tmp_path / "none.tb", "-o", out), "there is no such file"),
        ((run, tmp_path / "cut.tb", "-o", out), "is damaged"),
        ((run, tmp_path / "flipped.tb", "-o", out), "is damaged"),
        ((other, file, "-o", out), "was written with another model"),
        ((run, file, "-o", tmp_path / "full"), "exists; name a new folder"),
        ((run, file, "-o", out, "--only", "5:99"), "5:99 goes beyond the 12 images"),
        ((run, file, "-o", out, "--only", "7"), "'7' is not FIRST:STOP"),
        ((run, file, "-o", out, "--rows", 0), "--rows: must be 1 or more"),
    ):
        assert said in error(decompress, *given, capsys=capsys)
    assert not out.exists() and not list(tmp_path.glob(".*"))
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_a_full_disk_is_one_line_and_leaves_nothing(place, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    run, file = place / "run", place / "all.tb"
    try:
        lines = [
            error(compress, run, place / "pictures", "-o", tmp_path / "a.tb", capsys=capsys),
            error(decompress, run, file, "-o", tmp_path / "b", "--as", "npz", capsys=capsys),
            error(decompress, run, file, "-o", tmp_path / "c", capsys=capsys),
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert all("could not be written (File too large)" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_call_leaves_nothing(place, tmp_path, monkeypatch):
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vae.bitsback.BitsBack._decode_batch", interrupted)
    with pytest.raises(SystemExit) as ended:
        decompress(words(place / "run", place / "all.tb", "-o", tmp_path / "out"))
    assert ended.value.code == 130 and not list(tmp_path.iterdir())


def test_compress_continues_after_its_last_complete_block(place, tmp_path, monkeypatch, capsys):
    """12 images in blocks of 5: the call is interrupted in the third block, in the fourth call."""
    out, kept = tmp_path / "all.tb", tmp_path / ".all.tb.unfinished"
    given = words(place / "run", place / "pictures", "-o", out, "--block", 5)
    encode, calls = BitsBack.encode, []

    def interrupted_at(number):
        def call(self, images, *rest):
            calls.append(len(images))
            if len(calls) == number:
                raise KeyboardInterrupt
            return encode(self, images, *rest)

        monkeypatch.setattr(BitsBack, "encode", call)

    interrupted_at(3)
    with pytest.raises(SystemExit) as ended:
        compress(given)
    assert ended.value.code == 130 and calls == [5, 5, 2]
    assert "interrupted: 10 images are kept, and the same" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [kept.name]
    content = kept.read_bytes()
    interrupted_at(0)
    for spoilt, again in ((content, 1), (content[:-1], 2), (content + b"x", 1), (b"", 3)):
        kept.write_bytes(spoilt)
        calls.clear()
        compress(given)
        assert len(calls) == again and not kept.exists()
        done = out.rename(tmp_path / "done.tb")
        assert done.read_bytes() == (place / "all.tb").read_bytes()
        said = capsys.readouterr().out
        assert ("12 images (10 of them earlier) in" in said) == (again == 1)


def test_unfinished_blocks_of_other_images_settings_or_users_are_not_used(
    place, tmp_path, monkeypatch, capsys
):
    images = pixels_of(place / "pictures").transpose(0, 3, 1, 2)
    header, parts = b"a header", Parts(1.0, 2.0, 3.0, 4)
    out = tmp_path / "all.tb"

    def taken(key: bytes, pixels: np.ndarray) -> bool:
        with pytest.raises(KeyboardInterrupt), unfinished(out) as earlier:
            earlier.keep(header, images, b"a block", parts)
            raise KeyboardInterrupt
        with unfinished(out) as earlier:
            found = earlier.take(key, pixels)
        assert found in (None, (b"a block", parts)) and not list(tmp_path.iterdir())
        return found is not None

    assert taken(header, images)
    assert not taken(b"another", images) and not taken(header, images + 1)
    with pytest.raises(KeyboardInterrupt), unfinished(out) as earlier:
        earlier.keep(header, images, b"a block", parts)
        raise KeyboardInterrupt
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "another"))  # another user's key
    with unfinished(out) as earlier:
        assert earlier.take(header, images) is None


def test_a_second_process_and_a_link_are_one_line(place, tmp_path, capsys):
    out, mine = tmp_path / "all.tb", tmp_path / "mine.txt"
    given = (place / "run", place / "pictures", "-o", out)
    with unfinished(out):
        assert "another process writes this file" in error(compress, *given, capsys=capsys)
    mine.write_text("mine")
    (tmp_path / ".all.tb.unfinished").symlink_to(mine)
    assert "can not be opened" in error(compress, *given, capsys=capsys)
    assert mine.read_text() == "mine" and not out.exists()


def test_a_disk_that_is_full_in_the_middle_keeps_the_complete_blocks(place, tmp_path, capsys):
    out = tmp_path / "all.tb"
    given = (place / "run", place / "pictures", "-o", out, "--block", 5)
    most = (place / "all.tb").stat().st_size - 100
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        said = error(compress, *given, capsys=capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "could not be written (File too large)" in said and "10 images are kept" in said
    assert [file.name for file in tmp_path.iterdir()] == [".all.tb.unfinished"]
    compress(words(*given))
    assert "(10 of them earlier)" in capsys.readouterr().out
    assert out.read_bytes() == (place / "all.tb").read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_an_existing_file_folder_or_device_is_not_replaced(place, tmp_path, capsys):
    (held := tmp_path / "held.tb").write_bytes(b"the only copy")
    os.mkfifo(pipe := tmp_path / "pipe.tb")
    for out in (held, tmp_path, pipe):
        line = error(compress, place / "run", place / "pictures", "-o", out, capsys=capsys)
        assert f"--out: {out} exists; name another file" in line
    assert held.read_bytes() == b"the only copy" and pipe.is_fifo()


@pytest.mark.parametrize(
    ("word", "places"), [("0:1", (0, 1)), ("7:9", (7, 9)), ("5:5", None), ("2:1", None)]
)
def test_a_part_of_a_file_has_one_image_or_more(word, places):
    words = ["run", "a.tb", "-o", "out", "--only", word]
    if places is None:
        with pytest.raises(UserError, match=f"--only: '{word}' is not FIRST:STOP"):
            arguments_of_decompress(words)
        return
    assert arguments_of_decompress(words).only == slice(*places)
