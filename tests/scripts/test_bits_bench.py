"""The contest of lossless files: both sides give every image back, and our file is smaller. And the
sections of `twobounds bench`.
"""

import re
from pathlib import Path

import pytest
import torch

from scripts import bench, benches
from scripts.benches.bits import OneLaneAnElement, contest, main
from tests.small_vaes import model, saved, some_images
from vae.bitsback import BitsBack


@pytest.mark.parametrize("batch", [1, 7])
def test_both_sides_give_every_image_back_and_ours_is_smaller(batch):
    method = model("beta")
    made = contest(method, some_images(method, 40), batch)
    said = made.same(made.ours(), made.peer())
    assert said.startswith("same images; ") and said.endswith(" bits/dim")
    with pytest.raises(AssertionError):
        made.same(made.peer(), made.ours())


@torch.no_grad()
def test_the_published_arrangement_pays_its_net_length_and_64_bits_an_element():
    method = model("beta")
    images = some_images(method, 40)
    stack, grid, size = OneLaneAnElement(method, batch=20).packed(images)
    assert len(stack.heads) == 20 * 64
    net = BitsBack(method, batch=20).encode(images, grid).parts.net
    raw, useful = 64 * 20 * 64, 32 * 20 * 64  # a head has 32 to 64 bits, but pays for 64
    assert raw <= size and net + useful <= size < net + raw + useful


def test_the_bench_reads_a_checkpoint_and_refuses_one_without_a_codec(tmp_path, capsys):
    run = saved(tmp_path / "run", likelihood="normal")
    with pytest.raises(SystemExit) as ended:
        main(str(run), "test")
    assert ended.value.code == 2 and "normal is a density" in capsys.readouterr().err


def test_the_bench_without_data_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main("run")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1 and "its data" in said


def test_the_sections_of_the_bench_are_the_files_with_contests():
    files = {path.stem: path.read_text() for path in Path(benches.__path__[0]).glob("*.py")}
    having = {name for name, text in files.items() if re.search(r"^def contests\(", text, re.M)}
    assert having == set(bench.SECTIONS) and {"bits", "queue"} < having
