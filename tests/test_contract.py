"""Every config trains for a few steps on data of its shape, is saved, and is restored from its file
alone.
"""

import re
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from lightning_fabric import Fabric

from contrastive.simclr import SimCLR, SimCLRConfig
from contrastive.vicreg import VICReg, VICRegConfig
from core.data.datasets import EMBEDDED, open_source
from core.data.images import Arrays
from core.data.source import Source, train_sampler
from core.data.views import policy
from core.method import LatentModel, Method, PairCritic, locate
from core.randomness import KeyedRNG
from core.run import checkpoint, config
from core.run.optim import build_optimizer
from core.run.setup import build_state, start_fabric
from core.run.train import train

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
SHAPES = {
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "folder": (1, 28, 28),
}  # a folder is OMNIGLOT


def lacks_of_head(path: Path) -> str:
    """What the first lines of a config lack, or "": a comment with its command."""
    head = path.read_text().splitlines()[:6]
    commands = f"scripts/pretrain.py configs/{path.name}", f"twobounds pretrain {path.name}"
    comments = [line for line in head if line.startswith("#")]
    missing = []
    if not head or not head[0].startswith("# "):
        missing.append("its first line is no comment that says what it trains")
    if not any(command in line for command in commands for line in comments):
        missing.append(f"none of the comments in its first 6 lines has `{commands[1]}`")
    if not missing:
        return ""
    return (
        f"{path}: {' and '.join(missing)}. An example:\n"
        f"# SimCLR on the embedded sprites: I(V1; V2) = log 288 = 5.66 nats.\n"
        f"#   {commands[1]}\n"
        f"# Cost: 38 s on 2 CPU cores. Expect, at seed 0: linear 99.5 %."
    )


@pytest.mark.parametrize(
    "text, lacks",
    [
        ("# Mine.\n#   twobounds pretrain mine.yaml\n", ""),
        ("# Mine.\n#   python scripts/pretrain.py configs/mine.yaml\n", ""),
        ("# Mine.\nmethod: x\n", "none of the comments"),
        ("method: x\n#   twobounds pretrain mine.yaml\n", "its first line"),
        ("", "its first line .* and none of the comments"),
    ],
)
def test_a_head_that_lacks_something_is_told_what(tmp_path, text, lacks):
    (tmp_path / "mine.yaml").write_text(text)
    said = lacks_of_head(tmp_path / "mine.yaml")
    if not lacks:
        assert said == ""
    else:
        assert re.search(lacks, said) and "#   twobounds pretrain mine.yaml" in said


def declares_truly(method: Method) -> bool:
    """Whether `only_features` agrees with the members that the method has."""
    return method.only_features != isinstance(method, PairCritic | LatentModel)


@pytest.mark.parametrize("kind, config_of", [(SimCLR, SimCLRConfig), (VICReg, VICRegConfig)])
def test_a_method_declares_whether_it_has_a_critic(kind, config_of):
    method = kind(config_of(hidden=4, projection=4), (1, 8, 8))
    assert declares_truly(method)
    method.only_features = not kind.only_features
    assert not declares_truly(method)


def stand_in(run: config.RunConfig) -> Source:
    """Random images of the data set's shape, or the embedded data."""
    if run.data.name in EMBEDDED:
        return open_source(run.data, "train", 0)
    rng, shape = KeyedRNG(0, 0), SHAPES[run.data.name]
    images = rng.integers("images", 256, 32, *shape).to(torch.uint8)
    return Arrays(
        images,
        rng.integers("labels", 10, 32, 1),
        {"class": 10},
        policy(run.data.augment, shape[1]),
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_runs(path, tmp_path):
    assert not (lacks := lacks_of_head(path)), lacks
    given = ["optim.batch_size=8"]
    if path.stem != "simclr_cifar10" and config.read(path, []).model.backbone == "resnet18":
        given.append("model.backbone=resnet10t")  # half the weights; one config shows the other
    run = config.read(path, given)
    source = stand_in(run)
    steps = 1 if run.data.name == "cifar10" else 3  # large networks
    method = checkpoint.build_method(run, source.shape)
    if method.reads_text:
        method.learn_words(source.captions(256))
    optimizer = build_optimizer(method, run.optim)
    fabric = Fabric(accelerator="cpu", devices=1)
    state = checkpoint.State(run, method, optimizer)
    batches = source.batches(train_sampler(len(source), 8, 0, 0, steps), method.views)
    metrics = [
        {k: v.item() for k, v in m.items()}
        for m in train(
            fabric, *fabric.setup(method, optimizer), state, batches, steps, len(source) // 8
        )
    ]
    assert len(metrics) == steps and all(
        torch.tensor(list(m.values())).isfinite().all() for m in metrics
    )
    assert f"val/{method.criterion}" in {"val/knn"} | {f"val/{name}" for name in metrics[0]}
    checkpoint.save(tmp_path / "last.ckpt", state)
    loaded, again, step, _ = checkpoint.load_method(tmp_path / "last.ckpt")
    assert step == steps and config.to_dict(again) == config.to_dict(run)
    x = next(iter(source.batches(train_sampler(len(source), 8, 0, 0, 1), 1))).views[0]
    method.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded.embed(x), method.embed(x), rtol=0, atol=0)
    remedy = "remove" if loaded.only_features else "give it the members of PairCritic, or set"
    assert declares_truly(loaded), f"{run.method}: {remedy} `only_features = True` in the class"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_network_is_compiled_in_the_mode_that_was_asked_for(path):
    given = ["optim.batch_size=8", "trainer.compile=reduce-overhead", "trainer.accelerator=cpu"]
    if getattr(config.read(path, []).model, "backbone", "").startswith("resnet"):
        given.append("model.backbone=small")  # the networks of the method are the same
    run = config.read(path, given)
    source, fabric, served, modes = stand_in(run), start_fabric(run), set(), set()

    def compiled(call, mode):
        def counted(*given):
            served.update(call.__wrapped__.__self__.parameters())
            return call(*given)

        modes.add(mode)
        return counted

    with patch("torch.compile", compiled):
        state, model, optimizer = build_state(fabric, run, source.shape)
        if state.method.reads_text:
            state.method.learn_words(source.captions(256))
    next(
        train(
            fabric,
            model,
            optimizer,
            state,
            source.batches(train_sampler(len(source), 8, 0, 0, 1), state.method.views),
            1,
            1,
        )
    )
    eager = {
        name.split(".")[0]
        for name, p in state.method.named_parameters()
        if p.requires_grad and p not in served
    }
    # a distribution, whose interface has other names, and numbers of the loss
    assert modes == {"reduce-overhead"} and eager <= {"code_prior", "log_scale", "bias"}


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "core.method.Method",
        "contrastive.simclr.nn",
        "vae.beta.Method",
        "contrastive..simclr.SimCLR",
        "contrastive.simclr",
        "scripts.pretrain.main",
        "",
        "vae.nothing.X",
    ],
)
def test_only_methods_of_the_two_rooms_are_located(name):
    with pytest.raises(config.UserError):
        locate(name)


def test_a_located_method_is_a_method():
    assert issubclass(locate("contrastive.moco.MoCo"), Method)
