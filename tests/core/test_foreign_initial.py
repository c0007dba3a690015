"""`init` of a file of another program: each backbone gets timm's weights, and all other weights
stay new.
"""

import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from core.errors import UserError
from core.foreign import fit
from core.foreign.initial import start_from
from core.run import checkpoint, config
from scripts import export
from tests.foreign_weights import LAYOUTS, lightly, moco, network, under
from tests.in_process import call, train
from tests.starts import saved

SMALL = {
    "test_resnet": ["model.backbone=test_resnet", "model.stem=imagenet"],
    "test_vit": ["model.backbone=test_vit"],
}
BACKBONES = {"simclr": ["backbone"], "moco": ["query.backbone", "key.backbone"]}


def new(name, *more, side=32):
    run = config.read(f"{name}_sprites", list(more))
    return checkpoint.build_method(run, (3, side, side))


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_every_layout_gives_the_backbone_its_weights(write, name, tmp_path):
    if write is lightly and name == "test_vit":
        pytest.skip("a ViT is no sequence of its parts")
    net = network(name)
    write(net, path := tmp_path / "weights.pth.tar")
    for kind, places in BACKBONES.items():
        method, fresh = new(kind, *SMALL[name]), new(kind, *SMALL[name]).state_dict()
        said, digest = start_from(method, str(path))
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"'{LAYOUTS[write]}'" in said or not LAYOUTS[write]
        assert all(place in said for place in places) and str(path) in said
        x = torch.rand(2, 3, 32, 32)
        for place in places:
            with torch.no_grad():
                made = method.eval().get_submodule(place)(x)
                torch.testing.assert_close(made, net(2 * x - 1), rtol=0, atol=1e-6)
        rest = [key for key in fresh if not key.startswith(tuple(f"{p}." for p in places))]
        assert rest and all(torch.equal(method.state_dict()[key], fresh[key]) for key in rest)
        assert f"{len(rest)} other weights are new" in said


def test_a_vit_for_another_image_size_is_converted_and_that_is_said(tmp_path):
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(net.state_dict(), path := tmp_path / "w.safetensors")
    method = new("simclr", "model.backbone=vit_tiny_patch16_224")
    said, _ = start_from(method, str(path))
    assert "converted as timm" in said
    kept = method.backbone.net.state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.equal(kept, net.state_dict()["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    "change, more, words",
    [
        ("other", [], ["120 of 216", "the file fits model.backbone=resnet18"]),
        ("missing", ["model.backbone=resnet18"], ["missing (first: 'layer1.0.conv1.weight')"]),
        ("", ["model.backbone=resnet18", "model.stem=cifar"], ["'conv1.weight' is [64, 3, 7, 7]"]),
        ("none", ["model.backbone=resnet18"], ["none of its keys", "'a.b'"]),
        ("nan", ["model.backbone=resnet18"], ["is not finite"]),
        ("pickle", ["model.backbone=resnet18"], ["holds no tensors by name"]),
        ("text", ["model.backbone=resnet18"], ["plain pickles are refused"]),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(change, more, words, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "COMMON", ("resnet18",))  # the others take seconds
    monkeypatch.setattr(fit, "NEIGHBOURS", 1)
    net, path = network("resnet18"), tmp_path / "w.pth"
    state = under("module.encoder_q.", net)
    if change == "missing":
        state.pop("module.encoder_q.layer1.0.conv1.weight")
    if change == "nan":
        state["module.encoder_q.conv1.weight"].fill_(float("nan"))
    torch.save({"none": {"a.b": torch.ones(2)}, "pickle": net}.get(change, state), path)
    if change == "text":
        path.write_bytes(b"no weights at all")
    more = more or ["model.backbone=resnet34"]
    stem = [] if any(word.startswith("model.stem") for word in more) else ["model.stem=imagenet"]
    method = new("simclr", *more, *stem)
    with pytest.raises(UserError) as refused:
        start_from(method, str(path))
    said = str(refused.value)
    assert said.startswith("init: ") and str(path) in said and "\n" not in said
    assert all(word in said for word in words), said
    assert "--timm" not in said and "--prefix" not in said
    fits = change in ("nan", "pickle", "text")
    assert fits or "model.stem, model.patch and the channels" in said


def test_a_method_without_a_backbone_is_one_line(tmp_path):
    moco(network(), path := tmp_path / "w.pth")
    method = new("beta_vae", "model.backbone=mlp", "model.decoder=mlp")
    with pytest.raises(UserError, match="has no backbone that could be loaded alone"):
        start_from(method, str(path))


def test_our_checkpoints_and_exports_are_read_too(tmp_path):
    more = ["model.backbone=test_resnet", "model.stem=imagenet"]
    given = saved(tmp_path / "run/last.ckpt", "simclr_sprites", *more)
    export.main([str(tmp_path / "run"), "-o", str(tmp_path / "out")])
    for place, said_of in (("run", "init: all"), ("run/last.ckpt", "init: all"), ("out", "no pre")):
        method = new("simclr", *more)
        said, _ = start_from(method, str(tmp_path / place))
        assert said_of in said
        own = method.state_dict()
        assert all(torch.equal(own[key], given[key]) for key in own if key[:8] == "backbone")
    with pytest.raises(UserError, match="init: .*no such checkpoint"):
        start_from(new("simclr"), str(tmp_path / "none.pth"))


def test_a_run_starts_from_a_foreign_file_and_resumes_without_it(tmp_path):
    moco(network(), path := tmp_path / "w.pth.tar")
    more = [*SMALL["test_resnet"], "optim.epochs=1", f"init={path}"]
    answer = train("simclr", tmp_path / "run", *more)
    assert answer.code == 0, answer.err
    (said,) = (line for line in answer.out.splitlines() if line.startswith("init: "))
    assert "the prefix 'state_dict.module.encoder_q.'" in said and "left out as head: fc" in said
    held = json.loads((tmp_path / "run/data.json").read_text())
    assert held["init"] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    answer = call("--resume", str(tmp_path / "run"), "optim.epochs=2")
    assert answer.code == 0 and "init:" not in answer.out, answer.err
    answer = train("simclr", tmp_path / "other", *more)
    assert answer.is_one_line and "no such checkpoint" in answer.err
    assert not (tmp_path / "other").exists()
