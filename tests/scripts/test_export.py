"""An exported encoder gives the same features without this project, and equal numbers with it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from core.data.source import eval_sampler
from core.errors import UserError
from core.foreign import export, networks
from core.frozen import Frozen
from core.run import checkpoint, config
from probes import origins
from probes.labels import linear
from probes.views import critic, geometry
from scripts import compare, probe
from scripts import export as command
from tests.exported import BACKBONES, DATA, saved
from tests.in_process import train
from tests.pictures import png, table

ALLOWED = [
    "torch",
    "torchgen",
    "timm",
    "safetensors",
    "torchvision",
    "numpy",
    "numpy.libs",
    "yaml",
    "huggingface_hub",
    "filelock",
    "packaging",
    "tqdm",
    "requests",
    "typing_extensions.py",
    "sympy",
    "mpmath",
    "networkx",
    "jinja2",
    "markupsafe",
    "fsspec",
    "PIL",
    "pillow.libs",
    "functorch",
    "httpx",
    "httpcore",
    "anyio",
    "sniffio",
    "idna",
    "certifi",
    "h11",
    "hf_xet",
    "shellingham",
    "click",
    "typer",
    "pyyaml",
    "setuptools",
    "six.py",
    "dateutil",
    "triton",
    "torchvision.libs",
]
# beside a CPU build of torch, torchvision's wheel lacks two operators
OPERATORS = """
import torch
try:
    import torchvision
except RuntimeError:
    import sys
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(critic, "CYCLES", (5, 10))
    monkeypatch.setattr(geometry, "LIDAR_IMAGES", 60)
    monkeypatch.setattr(linear, "STRENGTHS", (1e-2, 1e-1))


def loaded(folder: Path):
    """The exported network, by its own loader."""
    spec = importlib.util.spec_from_file_location(f"load_{folder.name}", folder / "load.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("method", ["simclr_sprites", "moco_sprites"])
def test_the_loader_and_a_probe_of_the_folder_give_the_features(name, method, tmp_path):
    if method == "moco_sprites" and name not in ("small", "vit"):
        pytest.skip("the same networks")
    path = saved(tmp_path / "run", method, *BACKBONES[name])
    command.main([str(path), "-o", str(tmp_path / "out")])
    own = checkpoint.load_method(path).method
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(loaded(tmp_path / "out")(x), own.embed(x), rtol=0, atol=1e-6)
    source = (tmp_path / "out" / "load.py").read_text()
    assert "twobounds" not in source and "core" not in source
    network = networks.from_folder(tmp_path / "out")
    torch.testing.assert_close(network.module.eval()(x * 2 - 1), own.embed(x), rtol=0, atol=1e-6)


def test_a_run_folder_with_an_exported_network_in_it_is_a_run_folder(tmp_path):
    """Its last checkpoint has more than the network: a method with its codes."""
    path = saved(tmp_path / "run", "simclr_sprites")
    command.main([str(path), "-o", str(tmp_path / "out")])
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tmp_path / "out" / name, tmp_path / "run" / name)
    assert origins.is_exported(tmp_path / "out") and not origins.is_exported(tmp_path / "run")
    assert origins.find(tmp_path / "run") == path
    assert origins.find(tmp_path / "out") == tmp_path / "out"


def test_the_patch_size_of_moco_v3_is_kept(tmp_path):
    path = saved(tmp_path / "run", "mocov3_sprites")
    command.main([str(path), "-o", str(tmp_path / "out"), "--hub"])
    own, x = checkpoint.load_method(path).method, torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(loaded(tmp_path / "out")(x), own.embed(x), rtol=0, atol=1e-6)
    network = networks.from_folder(tmp_path / "out").module.eval()
    torch.testing.assert_close(network(x * 2 - 1), own.embed(x), rtol=0, atol=1e-6)


def test_a_fresh_environment_with_torch_timm_and_safetensors_is_enough(tmp_path):
    """Of an own network and of one of timm, in one process, because it imports for seconds."""
    x, own = torch.rand(4, 3, 32, 32), {}
    for name in ("small", "imagenet"):
        path = saved(tmp_path / f"run {name}", "simclr_sprites", *BACKBONES[name])
        command.main([str(path), "-o", str(tmp_path / name)])
        own[name] = checkpoint.load_method(path).method.embed(x)
    site, places = tmp_path / "site", [Path(one.__file__).parents[1] for one in (torch, timm)]
    site.mkdir()
    for place in places:
        for found in (*(place / name for name in ALLOWED), *place.glob("*.dist-info")):
            if found.exists() and not (site / found.name).exists():
                (site / found.name).symlink_to(found)
    torch.save(x, tmp_path / "x.pt")
    code = "import sys\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    code += f"sys.path += [{str(site)!r}]\n{OPERATORS}\n"
    code += f"x = torch.load({str(tmp_path / 'x.pt')!r})\n"
    for name in own:
        code += f"sys.path.insert(0, {str(tmp_path / name)!r})\nimport load\n"
        code += f"torch.save(load.load()(x).detach(), {str(tmp_path / name)!r} + '.pt')\n"
        code += "del sys.modules['load'], sys.path[0]\n"
    code += "for name in ('core', 'lightly', 'faiss', 'omegaconf', 'sklearn'):\n"
    code += "    try:\n        __import__(name)\n        raise SystemExit(name)\n"
    code += "    except ImportError:\n        pass\n"
    words = [sys.executable, "-I", "-S", "-c", code]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
    for name, wanted in own.items():
        made = torch.load(tmp_path / f"{name}.pt")
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["trained", "random timm network"])
def test_checkpoint_export_and_features_have_the_same_numbers(kind, tmp_path, capsys):
    sizes = ["data.sprites.train=96", "data.sprites.validation=64", "data.sprites.test=64"]
    if kind == "trained":
        assert train("simclr", tmp_path / "run", *sizes, "optim.epochs=1").code == 0
    else:
        saved(tmp_path / "run", "simclr_sprites", *BACKBONES["vit"], *sizes)
    run, out, file = tmp_path / "run", tmp_path / "out", tmp_path / "f" / "features.npz"
    command.main([str(run), "-o", str(out), "--embeddings", str(file)])
    asked = ["--probes", "linear,knn,information,geometry", "data.name=sprites", *sizes]
    probe.main([str(run), str(out), str(file), *asked])
    places = run / "probe", out / "probe", file.parent / "probe-features"
    own, exported, plain = (json.loads((p / "probe.json").read_text()) for p in places)
    for key in ("linear", "knn"):
        assert own[key] == exported[key] == plain[key]
    assert own["information"] == plain["information"]
    assert own["geometry"] == plain["geometry"]
    one, other = (r["information"]["critics"]["common"] for r in (own, exported))
    assert one == other
    assert own["geometry"]["features"] == exported["geometry"]["features"]
    capsys.readouterr()
    compare.main([*map(str, (run, out, file)), "--out", str(tmp_path / "c.png")])
    told = capsys.readouterr().out
    assert (tmp_path / "c.png").stat().st_size > 10_000
    assert "run" in told and "out" in told and "features" in told


def test_copies_of_an_image_are_left_out_of_a_file_of_named_data(tmp_path):
    png(tmp_path / "data", *(f"{split}/{i}.png" for split in ("train", "test") for i in range(60)))
    for i in range(7):
        shutil.copy(tmp_path / f"data/test/{i}.png", tmp_path / f"data/test/again{i}.png")
    path, file = saved(tmp_path / "run", "simclr_sprites"), tmp_path / "f" / "features.npz"
    named = ["data.name=folder", f"data.root={tmp_path / 'data'}", "data.size=32"]
    table(tmp_path / "data", "path,kind,split\n" + "\n".join(
        f"{place.relative_to(tmp_path / 'data')},{i % 2},{place.parent.name}"
        for i, place in enumerate(sorted((tmp_path / "data").glob("*/*.png")))
    ))  # fmt: skip
    named += ["data.list=list.csv", "data.labels=kind"]
    command.main([str(path), "--embeddings", str(file), *named])
    probe.main([str(path), str(file), *named, "--probes", "information"])
    plain = json.loads((file.parent / "probe-features/probe.json").read_text())["information"]
    (own,) = (tmp_path / "run").glob("probe*/probe.json")
    assert json.loads(own.read_text())["information"] == plain
    assert plain["copies_left_out"] == 7 and plain["images"] == 60


def test_features_of_named_data_must_be_theirs(tmp_path):
    path = saved(tmp_path / "run", "simclr_sprites")
    command.main([str(path), "--embeddings", str(tmp_path / "f.npz")])
    with pytest.raises(SystemExit):
        probe.main([str(tmp_path / "f.npz"), *DATA, "seed=1", "--probes", "linear"])
    probe.main([str(tmp_path / "f.npz"), *DATA, "--probes", "linear"])


VAES = {
    "conv": ["model.backbone=conv", "model.decoder=conv"],
    "mlp": ["model.backbone=mlp", "model.decoder=mlp"],
    "residual": ["model.backbone=residual", "model.decoder=residual"],
    "linear": ["model.backbone=linear", "model.decoder=linear"],
    "small": ["model.backbone=small"],
    "what_where": ["model.backbone=what_where"],
    "timm": ["model.backbone=resnet10t"],
    "cifar": ["model.backbone=resnet18", "model.stem=cifar"],
}


@pytest.mark.parametrize("name", VAES)
def test_a_vae_is_exported_as_encoder_and_decoder(name, tmp_path):
    path = saved(
        tmp_path / "run", "beta_vae_sprites", "model.latent=5", "model.width=8", *VAES[name]
    )
    command.main([str(path), "-o", str(tmp_path / "out")])
    own: Any = checkpoint.load_method(path).method
    network, x = loaded(tmp_path / "out"), torch.rand(4, 3, 32, 32)
    mean, log_sigma = network.encode(x)
    for made, wanted in zip((mean, log_sigma), own.moments(x), strict=True):
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(network(x), own.embed(x), rtol=0, atol=1e-6)
    z = torch.randn(3, 5)
    torch.testing.assert_close(network.decode(z), own.decoder(z), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="export of a VAE"):
        networks.from_folder(tmp_path / "out")


def test_a_vlae_says_that_its_pixelcnn_stays(tmp_path):
    path = saved(tmp_path / "run", "vlae_mnist", "model.width=8", shape=(1, 28, 28))
    command.main([str(path), "-o", str(tmp_path / "out")])
    assert "PixelCNN, which is not part" in (tmp_path / "out" / "load.py").read_text()
    own, x = checkpoint.load_method(path).method, torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(loaded(tmp_path / "out")(x), own.embed(x), rtol=0, atol=1e-6)


def test_timm_loads_the_folder_as_one_of_its_hub(tmp_path):
    import timm

    path = saved(tmp_path / "run", "simclr_sprites", *BACKBONES["vit"])
    command.main([str(path), "-o", str(tmp_path / "out"), "--hub"])
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=0)
    facts = timm.data.resolve_model_data_config(network)
    assert facts["mean"] == [0.5] * 3 and list(facts["input_size"]) == [3, 32, 32]
    x, own = torch.rand(2, 3, 32, 32), checkpoint.load_method(path).method
    torch.testing.assert_close(network.eval()(x * 2 - 1), own.embed(x), rtol=0, atol=1e-6)
    assert "library_name" in (tmp_path / "out" / "README.md").read_text()


def test_a_program_runs_any_batch(tmp_path):
    path = saved(tmp_path / "run", "simclr_sprites", *BACKBONES["small"])
    command.main([str(path), "-o", str(tmp_path / "out"), "--program"])
    module = torch.export.load(tmp_path / "out" / "model.pt2").module()
    own = checkpoint.load_method(path).method
    for n in (1, 3):
        x = torch.rand(n, 3, 32, 32)
        torch.testing.assert_close(module(x), own.embed(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to write"),
        (["--hub"], "need -o FOLDER"),
        (["--embeddings", "x.csv"], "should end in .npz or .parquet"),
        (["-o", "out", "data.root=x"], "only data.* can be overridden, and only with --embeddings"),
        (["-o", "full"], "holds other files"),
        (["-o", "out", "--hub"], "use load.py"),
        (["-o", "out", "--embeddings", "x.npz", "optim.lr=1"], "'optim.lr=1'"),
    ],
)
def test_refusals_are_one_line(words, said, tmp_path, monkeypatch, capsys):
    path = saved(tmp_path / "run", "simclr_sprites")
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as end:
        command.main([str(path), *words])
    told = capsys.readouterr().err
    assert end.value.code == 2 and said in told and len(told.strip().splitlines()) == 1
    assert os.listdir("full") == ["notes.txt"]


def test_packages_that_are_missing_are_one_line(tmp_path, monkeypatch, capsys):
    path = saved(tmp_path / "run", "simclr_sprites")
    for name in ("pyarrow", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    for words in (["--embeddings", "x.parquet"], ["-o", str(tmp_path / "out"), "--onnx"]):
        with pytest.raises(SystemExit):
            command.main([str(path), *words])
        assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "hf-hub:evil/net"},
        {"architecture": "local-dir:/"},
        {"model_args": {"checkpoint_path": "/tmp/x"}},
        {"model_args": {"pretrained": True}},
        {"model_args": {"embed_dim": 2**20, "depth": 1000}},
        {"pretrained_cfg": {"input_size": [3, 2**40, 2**40], "mean": [0.5], "std": [0.5]}},
        {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": ["x"], "std": [0]}},
        {"twobounds": [1]},
    ],
)
def test_a_config_of_unknown_origin_opens_nothing(change, tmp_path):
    path = saved(tmp_path / "run", "simclr_sprites", *BACKBONES["vit"])
    command.main([str(path), "-o", str(tmp_path / "out")])
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(facts | change))
    with pytest.raises(UserError) as refused:
        networks.from_folder(tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_embeddings_have_paths_labels_and_splits(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 8)):
        for number in range(count):
            place = tmp_path / "data" / split / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    path = saved(tmp_path / "run", "simclr_sprites")
    named = ["data.name=folder", f"data.root={tmp_path / 'data'}", "data.validation=10"]
    command.main([str(path), "--embeddings", str(tmp_path / "f.npz"), *named])
    held = np.load(tmp_path / "f.npz")
    assert held["x_train"].shape == (20, 256) and held["x_val"].shape == (10, 256)
    assert all(
        f"class{y}" in name for name, (y,) in zip(held["path_test"], held["y_test"], strict=False)
    )
    frozen = Frozen.load(path, named)
    source = frozen.source("test")
    batch = next(source.batches(eval_sampler(8), 1))
    torch.testing.assert_close(
        torch.from_numpy(held["x_test"]), frozen.method.embed(batch.views[0]), rtol=0, atol=1e-6
    )


def test_export_names_what_it_can_not_build(tmp_path):
    run = config.read("simclr_sprites", ["folder=x"])
    method = checkpoint.build_method(run, (3, 32, 32)).eval()
    method.embed = lambda x: method.backbone(x) * 2
    with pytest.raises(UserError, match="--program and --onnx export any encoder"):
        export.files(checkpoint.Loaded(method, run, 1, ""))


@pytest.mark.parametrize("asked", [["-o", "out"], ["--embeddings", "out/f.npz"]])
def test_a_checkpoint_that_can_not_be_read_leaves_no_folder(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    for path in ("nothing", "bad.ckpt"):
        with pytest.raises(SystemExit):
            command.main([path, *asked])
    assert not (tmp_path / "out").exists()
