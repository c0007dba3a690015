"""The commands work with pictures without labels: training, best.ckpt, the probes."""

import json

import numpy as np
import pytest
from PIL import Image

from core.run import checkpoint
from scripts import probe
from tests.in_process import CONFIGS, call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A flat folder of pictures, and a run of simclr_folder.yaml, made small, on it."""
    top = tmp_path_factory.mktemp("unlabelled")
    rng = np.random.default_rng(0)
    (top / "pictures").mkdir()
    for i in range(90):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((20, 24)).save(top / f"pictures/IMG_{i}.jpg")
    text = (CONFIGS / "simclr_folder.yaml").read_text()
    changes = {"resnet18": "small", "size: 64": "size: 16", "batch_size: 128": "batch_size: 24"}
    for before, after in {**changes, "epochs: 10": "epochs: 2"}.items():
        assert before in text
        text = text.replace(before, after)
    text = text.replace("folder: runs", f"folder: {top}/runs") + "wandb: disabled\n"
    (top / "mine.yaml").write_text(text)
    answer = call(str(top / "mine.yaml"), f"data.root={top / 'pictures'}")
    assert answer.code == 0, answer.err
    return top, answer


def test_best_ckpt_is_chosen_by_a_number_without_labels_which_is_named(trained):
    top, answer = trained
    said = "best.ckpt is chosen by val/in_batch_bound, a lower bound on what two views"
    assert said in answer.out and "no labels for val/knn" in answer.out
    run = top / "runs/simclr_folder"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bounds = {line["step"]: line["val/in_batch_bound"] for line in lines if "val/nt_xent" in line}
    assert len(bounds) == 2 and not any("val/knn" in line for line in lines)
    entries = checkpoint.read(run / "best.ckpt")
    assert entries["best"] == max(bounds.values()) == bounds[entries["step"]]


def test_probes_of_labels_are_left_out_with_a_word(trained, capsys):
    top, _ = trained
    run = top / "runs/simclr_folder"
    names = ["--probes", "linear,knn,geometry,disentanglement"]
    for _ in range(2):  # the second time from the kept rows
        probe.main([str(run), *names, "--device", "cpu", "--again"])
    found = json.loads((run / "probe/probe.json").read_text())
    assert set(found["absent"]) == {"linear", "knn", "disentanglement"}
    assert found["absent"]["linear"] == "the images have no labels" and "geometry" in found
    assert "no linear: the images have no labels" in capsys.readouterr().out


def test_other_pictures_with_labels_are_probed_by_data_keys_alone(trained, capsys):
    top, _ = trained
    for i, path in enumerate(sorted((top / "pictures").glob("*.jpg"))):
        place = top / f"labelled/{'ab'[i % 2]}/{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    run = top / "runs/simclr_folder"
    words = [str(run), f"data.root={top / 'labelled'}", "--probes", "linear,knn"]
    probe.main([*words, "--device", "cpu"])
    (place,) = run.glob("probe-folder-*")
    found = json.loads((place / "probe.json").read_text())
    assert 0 <= found["linear"]["top1"] <= 1 and not found["absent"]
