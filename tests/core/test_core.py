"""Random numbers, the config reader, and small parts of core."""

import pytest
import torch

from core.errors import UserError, nearest
from core.randomness import KeyedRNG
from core.run import config
from core.run.checkpoint import build_method
from core.run.progress import in_words

YAML = "configs/simclr_sprites.yaml"


def test_draws_are_a_function_of_seed_step_and_purpose():
    a = KeyedRNG(1, 2).normal("noise", 6, 3)
    assert torch.equal(a, KeyedRNG(1, 2).normal("noise", 6, 3))
    others = [
        KeyedRNG(1, 3).normal("noise", 6, 3),
        KeyedRNG(2, 2).normal("noise", 6, 3),
        KeyedRNG(1, 2).normal("other", 6, 3),
        KeyedRNG(1, 2).fork("view0").normal("noise", 6, 3),
    ]
    assert not any(torch.equal(a, b) for b in others)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_one_draw(world):
    whole = KeyedRNG(0, 5).uniform("x", 6, 2)
    parts = [KeyedRNG(0, 5, rank, world).uniform("x", 6 // world, 2) for rank in range(world)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(KeyedRNG(0, 5).permutation("p", 9), KeyedRNG(0, 5, 1, 2).permutation("p", 9))


def test_weights_are_a_function_of_the_seed_and_not_of_the_global_generator():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    a, b, c = (
        build_method(config.read(YAML, [f"seed={seed}"]), (3, 32, 32)).state_dict()
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_a_config_survives_the_way_to_plain_values_and_back():
    run = config.read(YAML, ["optim.lr=0.3", "data.sprites.grid=2"])
    assert config.from_dict(config.to_dict(run), "again") == run
    assert (run.optim.lr, run.data.sprites.grid, run.model.temperature) == (0.3, 2, 0.1)
    assert config.override(run, ["data.root=/elsewhere"], "x").data.root == "/elsewhere"


def test_the_information_probe_may_have_its_own_views():
    run = config.read(YAML, ["data.augment=none", "data.probe_augment=crop"])
    assert config.for_information(run).data.augment == "crop" and run.data.augment == "none"
    assert config.for_information(config.read(YAML, [])).data.augment == "simclr"


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["a.b.c=1"], "unknown key 'a'"),
        (["data.sprites.colors=3"], "colours"),
        (["data.sprites=[1]"], "data.sprites: is a section of keys"),
        (["optim.lr=[1,2]"], "optim.lr"),
        (["seed=-1"], "seed"),
        (["seed=1.5"], "seed"),
        (["wandb=maybe"], "wandb"),
        (["optim.lr=${nothing}"], "nothing"),
        (["trainer.devices=0"], "trainer.devices"),
        (["trainer.strategy=fsdp", "trainer.precision=16-mixed"], "32-true, bf16-mixed"),
        (["trainer.strategy=fsdp", "trainer.channels_last=true"], "trainer.channels_last"),
        (["trainer.strategy=dpd"], "auto, ddp"),
        (["trainer.compile=fast"], "reduce-overhead"),
        (["trainer.compile=reduce-overhead", "optim.micro_batch=8"], "optim.micro_batch=0"),
        (["optim.micro_batch=1"], "optim.micro_batch"),
        (["model.momentum=2", "method=contrastive.moco.MoCo"], "model.momentum"),
    ],
)
def test_wrong_configs_are_one_line(overrides, words):
    with pytest.raises(UserError) as error:
        config.read(YAML, overrides)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "- 1\n", "a: [", "\x00", "method: 3\n", "method: vae.beta.BetaVAE\n"]
)
def test_files_that_are_no_config_are_one_line(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        config.read(tmp_path / "x.yaml", [])
    assert "x.yaml" in str(error.value)


def test_nearest():
    assert "temperature" in nearest("temprature", ["temperature", "queue"])
    assert "valid: a, b" in nearest("zzz", ["a", "b"])


def test_the_log_says_that_a_train_bound_is_no_certificate():
    line = in_words({"loss": 1.5, "train_bound": 3.25, "val/in_batch_bound": 2.125, "val/knn": 0.5})
    assert (
        line == "loss 1.5 · train log C - L (no bound) 3.25 · in-batch log N - L 2.125 · val/knn"
        " 0.5"
    )
