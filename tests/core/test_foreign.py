"""Weights of other programs: the part that fits is found, read without running code, and gives
exactly timm's features; any other file is refused in one line.
"""

import os
import pickle
import random
import struct
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from core.errors import UserError
from core.foreign import legacy, networks, weights
from core.foreign.encoder import Encoder, EncoderConfig
from core.foreign.frozen import Asked, open_encoder
from core.run import archive, checkpoint, config
from core.run.checkpoint import State
from core.run.optim import build_optimizer
from core.trust import code_of
from tests.foreign_weights import (
    LAYOUTS,
    dino,
    lightly,
    moco,
    network,
    solo_learn,
    timm_file,
    under,
)

DATA = [f"data.sprites.{split}=16" for split in ("train", "validation", "test")]
DATA = ["data.name=sprites", *DATA]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_features_of_a_layout_are_those_of_timm(write, name, tmp_path):
    if write is lightly and name == "test_vit":
        pytest.skip("a ViT is no sequence of its parts")
    net = network(name)
    write(net, path := tmp_path / "weights.pth.tar")
    asked = Asked(timm=name, weights=path, size=net.default_cfg["input_size"][-1])
    opened = open_encoder(asked, DATA)
    x = torch.rand(3, 3, asked.size, asked.size)
    facts = timm.data.resolve_model_data_config(net)
    mean, std = (torch.tensor(facts[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        own, made = net((x - mean) / std), opened.frozen.method.embed(x)
    assert own.std() > 1e-3
    torch.testing.assert_close(made, own, rtol=0, atol=1e-6)
    assert f"'{LAYOUTS[write]}'" in opened.remarks[0] or not LAYOUTS[write]
    heads = {moco: "fc", timm_file: "fc", solo_learn: None, dino: None, lightly: None}
    if heads.get(write):
        assert "left out as head: fc" in opened.remarks


def test_our_own_checkpoint_is_one_more_layout(tmp_path):
    run = config.read("simclr_sprites", ["model.backbone=resnet10t", "model.stem=imagenet"])
    method = checkpoint.build_method(run, (3, 32, 32)).eval()
    path = tmp_path / "last.ckpt"
    checkpoint.save(path, State(run, method, build_optimizer(method, run.optim)))
    half = (0.5, 0.5, 0.5)
    asked = Asked(timm="resnet10t", weights=path, size=32, mean=half, std=half)
    opened = open_encoder(asked, DATA)
    x = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(opened.frozen.method.embed(x), method.embed(x), rtol=0, atol=0)
    assert "'method.backbone.net.'" in opened.remarks[0]


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet", "test_resnet"])
def test_a_folder_of_timms_hub_with_its_classifier(name, tmp_path):
    """As timm publishes networks; some keep the classifier inside of a part, as `head.fc`."""
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=7).eval()
    timm.models.save_for_hf(whole, tmp_path, safe_serialization=True)
    opened = open_encoder(Asked(folder=tmp_path), DATA)
    side = opened.frozen.run.model.size
    x = torch.rand(2, 3, side, side)
    facts = timm.data.resolve_model_data_config(whole)
    mean, std = (torch.tensor(facts[key]).view(-1, 1, 1) for key in ("mean", "std"))
    whole.reset_classifier(0)
    with torch.no_grad():
        own = whole((x - mean) / std)
    torch.testing.assert_close(opened.frozen.method.embed(x), own, rtol=0, atol=1e-6)
    assert any("left out as head" in remark for remark in opened.remarks)


def test_dinov2_is_converted_as_timm_does(tmp_path):
    arguments = {"img_size": 56, "patch_size": 14, "init_values": 1e-5, "reg_tokens": 2}
    net = network("test_vit", no_embed_class=True, **arguments)
    torch.manual_seed(1)
    first, token = torch.randint(-64, 64, (2, 1, 1, net.embed_dim)) / 64  # sums without rounding
    net.cls_token.data = token
    state = net.state_dict()
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = state["cls_token"] - first[:, 0]
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    held = {f"teacher.backbone.{key}": value for key, value in state.items()}
    held |= {"teacher.backbone.mask_token": torch.zeros(1, 3), "teacher.dino_head.x": torch.ones(2)}
    torch.save(held, tmp_path / "dinov2.pth")
    again = network("test_vit", no_embed_class=True, **arguments)
    for parameter in again.parameters():
        parameter.data.zero_()
    found = networks.fit.load(
        again, "test_vit", tmp_path / "x", weights.read(tmp_path / "dinov2.pth"), None
    )
    x = torch.rand(2, 3, 56, 56)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=1e-6)
    assert found.prefix == "teacher.backbone."


@pytest.mark.parametrize("pool", ["avg", "max", "cls", "cls+avg"])
def test_a_pooling_by_name(pool):
    net = network("test_vit")
    tokens = net.forward_features(x := torch.rand(2, 3, 160, 160))
    parts = {"cls": tokens[:, 0], "avg": tokens[:, 1:].mean(1), "max": tokens[:, 1:].amax(1)}
    wanted = torch.cat([parts[name] for name in pool.split("+")], 1)
    found = Encoder(EncoderConfig("test_vit", pool=pool), (3, 160, 160), net).embed(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_pooled_maps_are_those_of_a_cnn():
    net, x = network(), torch.rand(2, 3, 64, 64)
    found = Encoder(EncoderConfig("test_resnet", pool="avg"), (3, 64, 64), net).embed(x)
    torch.testing.assert_close(found, net(x), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="no class token"):
        Encoder(EncoderConfig("test_resnet", pool="cls"), (3, 64, 64), net).embed(x)


def test_images_are_resized_normalised_and_grey_ones_repeated():
    config = EncoderConfig("x", 8, 3, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7], "bilinear")
    made = Encoder(config, (1, 4, 4), nn.Identity())
    x = torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8)
    prepared = made.prepared(x)
    assert prepared.shape == (2, 3, 8, 8)
    large = nn.functional.interpolate(x / 255, (8, 8), mode="bilinear", antialias=True)
    # rounded to 8 bits twice
    torch.testing.assert_close(
        prepared[:, 2], (large[:, 0] - 0.3) / 0.7, rtol=0, atol=1 / 0.7 / 255
    )


def refusal(asked, overrides=DATA):
    with pytest.raises(UserError) as refused:
        open_encoder(asked, overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_weights_of_another_architecture_are_refused_with_the_one_that_fits(tmp_path):
    path = tmp_path / "r18.pth"
    torch.save({"model": under("encoder.", network("resnet18"))}, path)
    said = refusal(Asked(timm="resnet34", weights=path))
    assert str(path) in said and "'model.encoder.'" in said
    assert "96 are missing" in said or "missing (first: 'layer1.2.conv1.weight')" in said
    assert "the file fits --timm resnet18" in said
    torch.save(under("", network("resnet34")), path)  # not the first that is tried
    assert "the file fits --timm resnet34" in refusal(Asked(timm="resnet50", weights=path))
    # all keys of the smaller network are there, but the file holds a larger one
    deep = under("", network("resnet18"), **{"layer4.2.conv1.weight": torch.ones(2)})
    torch.save(deep, path)
    assert "the network lacks 1 (first: 'layer4.2.conv1.weight')" in refusal(
        Asked(timm="resnet18", weights=path)
    )


@pytest.mark.parametrize("fault", ["prefix", "missing", "shape", "none", "nan", "kind"])
def test_weights_that_do_not_fit_are_one_line(fault, tmp_path):
    path, net = tmp_path / "w.pth", network()
    state, first = under("backbone.", net), "conv1.0.weight"
    if fault == "missing":
        state.pop(f"backbone.{first}")
    if fault == "shape":
        state[f"backbone.{first}"] = torch.ones(2, 2)
    if fault == "none":
        state = {"a.b": torch.ones(2)}
    if fault == "nan":
        state[f"backbone.{first}"] = torch.full_like(state[f"backbone.{first}"], float("nan"))
    if fault == "kind":
        state[f"backbone.{first}"] = state[f"backbone.{first}"].long()
    torch.save(state, path)
    prefix = "encoder." if fault == "prefix" else None
    said = refusal(Asked(timm="test_resnet", weights=path, prefix=prefix, size=64))
    wanted = {
        "prefix": "the nearest fit: under 'backbone.'",
        "missing": f"1 are missing (first: '{first}')",
        "shape": f"'{first}' is [2, 2] there",
        "none": "none of its keys is a key of test_resnet; its first keys are 'a.b'",
        "nan": f"its weight '{first}' is not finite",
        "kind": f"'{first}' is torch.int64",
    }
    assert str(path) in said and wanted[fault] in said


class Evil:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, path = network(), tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}))
    assert "plain pickles are refused" in refusal(Asked(timm="test_resnet", weights=path))
    for new in (True, False):
        state = {"state_dict": net.state_dict(), "evil": Evil(), "list": [Evil(), Evil()]}
        torch.save(state, path, _use_new_zipfile_serialization=new)
        held = weights.read(path).tensors
        assert held.keys() == {f"state_dict.{key}" for key in net.state_dict()}
    torch.save(net, path)  # a whole pickled network
    assert "holds no tensors by name" in refusal(Asked(timm="test_resnet", weights=path))
    assert not (tmp_path / "PWNED").exists()


def test_sizes_in_an_old_file_are_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.arange(100.0)}, path, _use_new_zipfile_serialization=False)
    assert legacy.is_legacy(path)
    whole = path.read_bytes()
    at = whole.rindex(struct.pack("<q", 100))
    for count in (101, 2**40, -1):
        path.write_bytes(whole[:at] + struct.pack("<q", count) + whole[at + 8 :])
        with pytest.raises(archive.Broken):
            legacy.read(path)
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            weights.read(path)
    path.write_bytes(whole)
    torch.testing.assert_close(weights.read(path).tensors["a"], torch.arange(100.0))


def test_old_files_with_shared_and_half_precision_storages(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    held = {"a": base[1:3], "b": base.T, "c": base.half(), "d": torch.arange(5).int()}
    torch.save(held, path := tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name, tensor in weights.read(path).tensors.items():
        torch.testing.assert_close(tensor, held[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("asked", "overrides", "words"),
    [
        (Asked(timm="test_resnet"), DATA, "add --random"),
        (Asked(timm="test_resnet", random=True), [], "has no data of its own"),
        (Asked(timm="resnet5", random=True), DATA, "did you mean"),
        (Asked(timm="hf-hub:evil/net", random=True), DATA, "timm has no"),
        (Asked(timm="local-dir:/x", random=True), DATA, "timm has no"),
        (Asked(timm="resnet50.a1_in2k", random=True), DATA, "a1_in1k"),
        (Asked(timm="test_resnet", random=True, pool="cls", size=64), DATA, "no class token"),
        (Asked(timm="test_resnet", random=True, mean=(0.5, 0.5), size=64), DATA, "--mean"),
        (Asked(torch="os:getcwd"), DATA, "not a torch.nn.Module"),
        (Asked(torch="no_such_module:f"), DATA, "can not be imported"),
        (Asked(torch="x"), DATA, "package.module:function"),
        (Asked(), DATA, "give one encoder"),
        (Asked(timm="test_resnet", weights=Path("none.pth")), DATA, "can not be read"),
        (Asked(timm="test_resnet", random=True, size=64), ["data.name=sprite"], "data.name"),
    ],
)  # fmt: skip
def test_requests_that_can_not_be_met_are_one_line(asked, overrides, words):
    assert words in refusal(asked, overrides)


def test_a_random_baseline_is_a_function_of_the_seed_and_says_so():
    asked = Asked(timm="test_resnet", random=True, size=64)
    one, same = open_encoder(asked, DATA), open_encoder(asked, DATA)
    third = open_encoder(asked, [*DATA, "seed=1"])
    assert one.frozen.weights == same.frozen.weights != third.frozen.weights
    assert one.frozen.run.method == "test_resnet, random weights"
    assert one.path == Path("runs/test_resnet-random/last.ckpt")


def test_identities_differ_where_features_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = "import torch\ndef build():\n    torch.manual_seed(0)\n"
    code += "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 5))\n"
    (tmp_path / "encoder_of_mine.py").write_text(code)
    seen = {open_encoder(Asked(torch="encoder_of_mine:build"), DATA).frozen.weights}
    seen.add(
        open_encoder(
            Asked(torch="encoder_of_mine:build", mean=(0.5,), std=(0.5,)), DATA
        ).frozen.weights
    )
    (tmp_path / "encoder_of_mine.py").write_text(code + "# changed\n")
    seen.add(open_encoder(Asked(torch="encoder_of_mine:build"), DATA).frozen.weights)
    assert len(seen) == 3


def test_pythons_own_library_is_not_code_of_a_user():
    """Its modules lie beside each other, so one digest would read all installed packages."""
    assert code_of("types.SimpleNamespace") == code_of("json.JSONDecoder") == ""
    assert code_of("tests.core.test_foreign.Nothing") != ""


def test_code_that_a_builder_imports_belongs_to_its_identity(tmp_path, monkeypatch):
    """The weights and the builder's file stay, and the features change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "layers_of_mine.py").write_text("SCALE = 1\n")
    code = "import torch\nfrom layers_of_mine import SCALE\n"
    code += "class Net(torch.nn.Flatten):\n"
    code += "    def forward(self, x):\n        return SCALE * super().forward(x)\n"
    (tmp_path / "importer_of_mine.py").write_text(code + "build = Net\n")
    asked = Asked(torch="importer_of_mine:build")
    seen = [open_encoder(asked, DATA).frozen.weights for _ in range(2)]
    (tmp_path / "layers_of_mine.py").write_text("SCALE = -1\n")
    seen.append(open_encoder(asked, DATA).frozen.weights)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_damaged_bytes_are_a_file_or_one_line(kind, tmp_path):
    """Changed bytes give tensors no larger than the file, or one line."""
    held = {"state_dict": {"a": torch.arange(30.0).view(5, 6), "b": torch.ones(3).half()}, "n": 3}
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file(held["state_dict"], path)
    else:
        torch.save(held, path, _use_new_zipfile_serialization=kind == "zip")
    whole, draw = path.read_bytes(), random.Random(0)
    seen = set()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 8))):
            content[draw.randrange(len(content))] = draw.choice((0, 1, 127, 128, 255))
        path.write_bytes(content)
        try:
            found = weights.read(path).tensors
            assert sum(x.nbytes for x in found.values()) <= len(whole)
            seen.add("read")
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
            seen.add("refused")
    assert "refused" in seen
