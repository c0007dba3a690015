"""A file of features is checked array by array, and probes give the numbers that it allows."""

import io
import json
import math
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core import npz
from core.errors import Unmeasurable, UserError
from core.foreign import arrays
from core.foreign.embeddings import write_npz
from core.foreign.feature_file import FeatureFile
from core.frozen import Frozen
from core.method import LatentModel, PairCritic
from probes import api
from probes.latents.rate import RateProbe
from probes.views import critic, geometry
from scripts import compare, probe
from tests.exported import saved


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(critic, "CYCLES", (30, 60))
    monkeypatch.setattr(geometry, "LIDAR_IMAGES", 60)


def made(n=80, d=6):
    """Arrays of two classes, with second views, codes and posteriors."""
    rng, found = np.random.default_rng(0), {}
    for split in ("train", "test"):
        y = rng.integers(0, 3, n)
        x = rng.normal(size=(n, d)).astype(np.float32) + 3 * np.eye(d, dtype=np.float32)[y]
        other = x + 0.3 * rng.normal(size=x.shape).astype(np.float32)
        code = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, other)]
        found |= {f"x_{split}": x, f"y_{split}": y, f"second_{split}": other}
        found |= {f"query_{split}": code[0], f"key_{split}": code[1]}
        found |= {f"mean_{split}": x, f"log_var_{split}": np.full_like(x, -1.0)}
    return found | {"temperature": np.array(0.2)}


def written(tmp_path, held):
    np.savez(tmp_path / "features.npz", **held)
    return tmp_path / "features.npz"


def report(path, *words):
    probe.main([str(path), *words])
    return json.loads((path.parent / "probe-features" / "probe.json").read_text())


def test_every_probe_that_the_arrays_allow(tmp_path, capsys):
    held = made()
    found = report(written(tmp_path, held))
    captions = ("captions", "retrieval", "zero_shot", "binding", "reader")
    assert found["absent"] == {
        "disentanglement": "needs two known factors or more",
        **dict.fromkeys(captions, "the encoder reads no captions"),
    }
    three = [held[f"{kind}_{split}"] for split in ("train", "test") for kind in "xy"]
    one = api.linear(*three)
    assert found["linear"]["top1"] == pytest.approx(one["top1"], abs=1e-12)
    assert found["knn"]["knn20"]["top1"] == api.knn(*three, k=20, temperature=0.07)["top1"]
    assert set(found["information"]["critics"]) >= {"native", "common"}
    bound = api.infonce_bound(held["query_test"], held["key_test"], 0.2)
    native = found["information"]["critics"]["native"]["sweep"][-1]
    assert native["bound"] == pytest.approx(bound["value"], abs=1e-5)
    assert found["information"]["truth"] is None
    mean, variance = held["mean_test"].astype(np.float64), math.exp(-1)
    kl = 0.5 * (mean**2 + variance + 1 - 1).sum(1).mean()  # log variance is -1, so -log v = 1
    assert found["rate"]["rate"]["value"] == pytest.approx(kl, abs=1e-4)
    said = capsys.readouterr().out
    assert "nelbo" not in found["rate"] and "D is not known" in said
    assert found["information"]["copies_left_out"] is None and "could not be left out" in said
    assert found["geometry"]["lidar_views"] == 2


def test_a_report_of_unknown_images_is_read_again(tmp_path, capsys):
    """`copies_left_out` is null in it: nothing is measured twice, and `compare` shows it."""
    path = written(tmp_path, made())
    assert report(path, "--probes", "information")["information"]["copies_left_out"] is None
    capsys.readouterr()
    report(path, "--probes", "information")
    compare.main([str(path), "--out", str(tmp_path / "c.png")])
    said = capsys.readouterr().out
    assert "information was measured before" in said and "critic" in said


def test_out_names_the_folder_of_the_reports_of_files(tmp_path, capsys):
    path, out = written(tmp_path, made()), tmp_path / "out"
    (tmp_path / "other").mkdir()
    again = shutil.copy(path, tmp_path / "other")
    words = ["--probes", "linear", "--out", str(out)]
    probe.main([str(path), *words])
    assert "linear" in json.loads((out / "probe-features" / "probe.json").read_text())
    assert not (tmp_path / "probe-features").exists()
    compare.main([str(out), "--out", str(tmp_path / "c.png")])
    for refused, why in (
        ([str(path), str(again)], "two of these would write the same report"),
        (["a/last.ckpt", str(path)], "a/last.ckpt: --out is not for checkpoints"),
    ):
        with pytest.raises(SystemExit):
            probe.main([*refused, *words])
        assert why in capsys.readouterr().err


def test_a_known_distortion_gives_d_and_d_plus_r(tmp_path):
    held = made() | {"distortion_test": np.linspace(10, 20, 80)}
    found = report(written(tmp_path, held), "--probes", "rate")["rate"]
    assert found["distortion"]["value"] == pytest.approx(15, abs=1e-4)
    total = found["distortion"]["value"] + found["rate"]["value"]
    assert found["nelbo"]["value"] == pytest.approx(total, abs=1e-3)


def test_what_is_missing_is_a_reason(tmp_path):
    held = {key: value for key, value in made().items() if key[:2] == "x_"}
    words = [
        "--probes",
        "linear,knn,information,geometry,rate,disentanglement,likelihood,rate_head",
    ]
    found = report(written(tmp_path, held), *words)
    absent = found["absent"]
    assert "no labels" in absent["linear"] and "no labels" in absent["knn"]
    assert "second views" in absent["information"] and "no posterior" in absent["rate"]
    assert "no images" in absent["rate_head"] and "no posterior" in absent["likelihood"]
    assert found["geometry"]["features"]["dimensions"] == 6
    assert "alignment" not in found["geometry"]["features"]


def test_the_evaluations_on_request_read_a_file_too(tmp_path):
    words = ["--probes", "low_shot,mlp,classes,finetune", "mlp.epochs=1"]
    found = report(written(tmp_path, made(200)), *words)
    assert {"low_shot", "mlp", "classes"} <= found.keys()
    assert found["absent"] == {"finetune": "needs an encoder, not only its features"}


def test_labels_of_one_split_are_not_enough(tmp_path):
    held = {key: value for key, value in made().items() if key != "y_test"}
    found = report(written(tmp_path, held), "--probes", "linear,knn")
    assert found["absent"]["linear"] == "features.npz holds no y_test"


def test_likelihoods_need_images(tmp_path):
    found = report(written(tmp_path, made()), "--probes", "likelihood,ais")
    assert all("no images" in why for why in found["absent"].values()) and len(found["absent"]) == 2


def test_safetensors_hold_the_same(tmp_path):
    held = made()
    tensors = {key: torch.as_tensor(value).clone() for key, value in held.items()}
    save_file(tensors, tmp_path / "f.safetensors", {"factors": "kind", "augmentation": "crop"})
    np.savez(tmp_path / "f.npz", **held, factors=np.array(["kind"]), augmentation=np.array("crop"))
    one, other = (arrays.read(tmp_path / f"f.{end}") for end in ("npz", "safetensors"))
    assert one.factors == other.factors == {"kind": 3}
    assert one.augmentation == other.augmentation == "crop"
    assert one.temperature == pytest.approx(other.temperature)
    for name, value in one.arrays.items():
        torch.testing.assert_close(value, other.arrays[name], rtol=0, atol=0)


def test_val_is_used_where_the_file_has_it(tmp_path):
    held = made()
    held |= {f"{kind}_val": held[f"{kind}_test"][:30] for kind in ("x", "y", "second")}
    frozen = FeatureFile.read(written(tmp_path, held), [])
    assert len(frozen.features("trainval").x) == 110 and len(frozen.pairs("val").place) == 30
    without = FeatureFile.read(written(tmp_path, made()), [])
    train, val = without.pairs("train"), without.pairs("val")
    assert len(train.place) == 72 and len(val.place) == 8
    assert not set(train.place.tolist()) & set(val.place.tolist())
    assert isinstance(without.method, PairCritic) and isinstance(without.method, LatentModel)
    with pytest.raises(Unmeasurable, match="no images"):
        without.images("test", torch.arange(2))


def changed(**new):
    return lambda held: held | new


ONES = np.ones
FAULTS = {
    "unknown name": (changed(x_tets=ONES((2, 2))), "did you mean 'x_test'"),
    "rows": (changed(y_test=np.zeros(79, int)), "x_test has 80 rows and y_test 79"),
    "dimensions": (changed(x_test=ONES((80, 7))), "has 6 dimensions"),
    "pair": (changed(second_test=ONES((79, 6))), "80 rows"),
    "codes": (changed(key_test=ONES((80, 5))), "dimensions"),
    "rank": (changed(x_test=ONES((80, 6, 1))), "real numbers, of shape [n, d]"),
    "flat": (changed(x_test=ONES(80)), "x_test has shape [80]"),
    "empty": (changed(x_test=ONES((0, 6))), "x_test has shape [0, 6]"),
    "nan": (changed(x_test=np.full((80, 6), np.nan)), "row 0 of x_test"),
    "overflow": (changed(x_test=np.full((80, 6), 1e300)), "not finite in float32"),
    "text": (changed(x_test=np.array([["a"] * 6] * 80)), "real numbers, of shape [n, d]"),
    "numbers as names": (changed(factors=np.array([1, 2])), "texts, of shape [n]"),
    "number as word": (changed(augmentation=np.array(3)), "of shape (); give one text"),
    "text as number": (changed(temperature=np.array("a")), "of shape (); give one real number"),
    "objects": (changed(x_test=np.array([{}] * 80)), "holds objects"),
    "float labels": (changed(y_test=np.zeros(80)), "give whole numbers"),
    "negative": (changed(y_test=np.full(80, -1)), "the label -1 in row 0"),
    "huge label": (changed(y_test=np.full(80, 2**40)), "labels are 0 to 65535"),
    "complex": (changed(x_test=ONES((80, 6), complex)), "complex128"),
    "temperature": (changed(temperature=np.array(-1.0)), "temperature is -1"),
    "classes": (changed(classes=np.array([2])), "are too few for its labels"),
    "names": (changed(factors=np.array(["a", "b"])), "factors or classes has another length"),
    "long name": (changed(factors=np.array(["a" * 500])), "the names in factors must differ"),
    "half a posterior": (lambda h: {k: h[k] for k in h if k != "log_var_test"}, "log_var_test"),
    "no features": (lambda h: {"y_test": h["y_test"]}, "holds no features"),
    "word": (changed(augmentation=np.array("a\nb")), "give a word"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_an_array_that_can_not_be_used_is_one_line(fault, tmp_path, capsys):
    change, words = FAULTS[fault]
    path = written(tmp_path, change(made()))
    with pytest.raises(SystemExit) as end:
        probe.main([str(path)])
    told = capsys.readouterr().err
    assert end.value.code == 2 and words in told and str(path) in told
    assert len(told.strip().splitlines()) == 1 and not (tmp_path / "probe-features").exists()


def test_a_header_can_not_ask_for_memory(tmp_path):
    """An npz whose array claims 2^60 numbers, or expands a thousandfold."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824, 6)}"
    text = header.ljust(117).encode() + b"\n"
    record = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 64
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", kind) as file:
            file.writestr("x_test.npy", record)
        with pytest.raises(UserError, match="x_test"):
            arrays.read(tmp_path / "bomb.npz")


def test_damaged_files_are_one_line(tmp_path):
    target = io.BytesIO()
    np.savez(target, **made())
    whole = target.getvalue()
    for end in (0, 10, 1000, len(whole) // 2, len(whole) - 3):
        for name in ("f.npz", "f.safetensors"):
            (tmp_path / name).write_bytes(whole[:end])
            with pytest.raises(UserError) as refused:
                arrays.read(tmp_path / name)
            assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no such file"):
        arrays.read(tmp_path / "none.npz")


def test_weights_without_their_network_are_told_how_to_name_it(tmp_path, capsys):
    save_file({"conv1.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        with pytest.raises(SystemExit):
            probe.main([str(tmp_path / name), "data.name=sprites"])
        assert "--timm NAME --weights" in capsys.readouterr().err


def test_rate_cells_without_distortion():
    numbers = {"rate": {"value": 1.0, "low": 0.9, "high": 1.1}, "lower": {"value": 0.5}}
    numbers |= {"upper": {"value": 0.8}}
    assert RateProbe().cells(numbers)[2] == "–" and RateProbe().values(numbers)[2] == "–"


def test_a_size_that_compression_can_not_reach_is_refused_before_it_is_read(tmp_path):
    """The directory of the zip agrees with the header, but 100 bytes can not be 800 MB."""
    header, count, path = io.BytesIO(), 10**8, tmp_path / "x.npz"
    facts = {"descr": "<f8", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", header.getvalue() + bytes(80))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\1\2") + 24  # the size that the directory states
    data[place : place + 4] = struct.pack("<I", len(header.getvalue()) + 8 * count)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x claims the shape .* holds \d+ bytes of it"):
        npz.read(path, "", lambda records: npz.array(records, "x", path, "", count, rank=1))


def test_a_file_of_a_vae_holds_its_posteriors(tmp_path):
    sizes = [f"data.sprites.{split}=40" for split in ("train", "validation", "test")]
    vae = ["model.backbone=conv", "model.decoder=conv", "model.width=8", "model.latent=5"]
    path = saved(tmp_path / "run", "beta_vae_sprites", *vae, *sizes)
    frozen = Frozen.load(path, [])
    file = write_npz(tmp_path / "f.npz", frozen, 40, (20, 3))
    read, own = (found.latents("test") for found in (FeatureFile.read(file, []), frozen))
    for key in ("mean", "sigma", "z", "distortion"):
        torch.testing.assert_close(getattr(read, key), getattr(own, key), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("word", "fits"),
    [("crop", True), ("x" * 100, True), ("x" * 101, False), ("", False), ("none", False)],
)
def test_a_file_says_in_a_word_what_makes_two_views_differ(word, fits, tmp_path):
    """ "none" would say that nothing does, although the file holds two views."""
    path = written(tmp_path, made() | {"augmentation": np.array(word)})
    if fits:
        assert arrays.read(path).augmentation == word
        return
    with pytest.raises(UserError, match="give a word"):
        arrays.read(path)
