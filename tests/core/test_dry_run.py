"""The dry run: errors that would come after an epoch are reported in one line before a folder is
made, and the dry run changes nothing of the run.
"""

import copy
import json
import warnings
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from contrastive.simclr import SimCLR
from core.data.datasets import open_source
from core.data.source import eval_sampler
from core.errors import UserError
from core.run import checkpoint, config
from core.run.dry_run import dry_run
from core.run.setup import PRECISIONS, Training, default_dtype, prepare, start_fabric
from core.run.validation import FULL, Validation
from probes.labels.knn import online_knn
from tests import in_process
from tests.bitwise import same
from tests.in_process import CONFIGS, train
from vae.beta import BetaVAE

EXTRA = {"simclr": [], "moco": ["model.queue=100"], "beta_vae": []}
TINY = {
    "simclr": ["model.hidden=16", "model.projection=8"],
    "moco": ["model.hidden=16", "model.projection=8", "model.queue=100"],
    "beta_vae": ["model.width=8", "model.latent=4"],
}


def prepared(method: str, folder, *more: str) -> tuple[Training, Validation]:
    run = config.read(
        CONFIGS / f"{method}_sprites.yaml",
        [f"folder={folder}", *in_process.SMALL, *TINY[method], *more],
    )
    source = open_source(run.data, "train", run.seed)
    training = prepare(start_fabric(run), run, source)
    return training, Validation(run, torch.device("cpu"), source, scores=online_knn)


def kept(training: Training) -> dict:
    """Everything of a run that a step or a validation may change."""
    state = training.state
    return copy.deepcopy(
        {
            "weights": state.method.state_dict(),
            "gradients": [p.grad for p in state.method.parameters()],
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict() if state.scaler else {},
            "step": state.step,
            "generator": torch.get_rng_state(),
            "training": [part.training for part in state.method.modules()],
        }
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["simclr", "moco", "beta_vae"])
def test_a_dry_run_takes_a_real_step_and_changes_nothing(method, precision, tmp_path):
    with default_dtype(precision):
        training, validation = prepared(
            method, tmp_path / "run", f"trainer.precision={precision}", "optim.clip=1"
        )
        before, moved = kept(training), []
        rehearse = validation.rehearse

        def looked_at(model, step):
            moved.append((step, not same(before["weights"], model.state_dict())))
            return rehearse(model, step)

        with patch.object(validation, "rehearse", looked_at):
            dry_run(training, validation)
    # a scaler skips its first steps if gradients overflow, like those of 20,000 nats
    assert moved == [(1, (method, precision) != ("beta_vae", "16-mixed"))]
    assert same(before, kept(training)) and not training.state.optimizer.state
    assert not list(tmp_path.iterdir())


def sizes_in(model) -> dict[str, set[int]]:
    """The sizes of the batches that a method receives from now on, by the name of the function."""
    sizes: dict[str, set[int]] = {"embed": set(), "encode": set(), "forward": set()}
    for name in sizes:
        made = getattr(model, name)

        def counted(given, *rest, name=name, made=made):
            images = given if isinstance(given, torch.Tensor) else given.views[0]
            sizes[name].add(len(images))
            return made(given, *rest)

        setattr(model, name, counted)
    return sizes


@pytest.mark.parametrize("method", ["simclr", "moco", "beta_vae"])
@pytest.mark.parametrize("images, last", [(600, 88), (513, 1)])
def test_a_dry_run_validates_with_the_final_names_and_batch_sizes(method, images, last, tmp_path):
    """A last block of 88 images causes no new error, but a block of a single image may."""
    more = [f"data.sprites.validation={images}", "optim.batch_size=100"]
    training, validation = prepared(method, tmp_path / "run", *more)
    model = training.state.method
    sizes = sizes_in(model)
    names = validation.rehearse(model, 0).keys()
    rehearsed = copy.deepcopy(sizes)
    assert names == validation(model, 0).keys()
    assert rehearsed["forward"] == sizes["forward"] == {100}
    read = "encode" if method != "beta_vae" and not rehearsed["embed"] else "embed"
    assert max(rehearsed[read]) == max(sizes[read]) == 512
    assert last in sizes[read] and (last in rehearsed[read]) == (last < 16)


@pytest.mark.parametrize(
    "method, more, words",
    [
        ("moco", ["optim.micro_batch=31"], ["optim.micro_batch", "holds a single image"]),
        ("simclr", ["optim.batch_size=2", "data.sprites.train=9", "model.backbone=resnet10t"], []),
        ("simclr", ["model.backbone=mixer_s16_224"], ["data.size", "Input height (32)"]),
        ("simclr", ["model.backbone=ghostnet_050", "data.sprites.train=64"], []),
        ("simclr", ["model.backbone=inception_v3"], ["data.size", "Kernel size"]),
        ("simclr", ["trainer.precision=16-true"], ["trainer.precision", "16-mixed"]),
        ("simclr", ["trainer.precision=bf16-true"], ["trainer.precision", "bf16-mixed"]),
        ("moco", ["model.hidden=100000000000"], ["optim.batch_size", "memory"]),
        ("beta_vae", ["model.width=3000000"], ["optim.batch_size", "memory"]),
    ],
)
def test_a_config_that_can_not_run_is_one_line_and_leaves_no_folder(method, more, words, tmp_path):
    """If no words are given, the run must reach its end."""
    answer = train(method, tmp_path / "run", *EXTRA[method], "optim.epochs=1", *more)
    if not words:
        assert answer.code == 0, answer.err
        return
    assert answer.is_one_line, answer
    assert all(word in answer.err for word in words), answer.err
    assert not list(tmp_path.iterdir())


def test_a_batch_larger_than_the_validation_split_validates_on_all_images(tmp_path):
    """Earlier, a batch size above the number of validation images gave an empty batch."""
    few = FULL._replace(metrics=32)
    training, validation = prepared("simclr", tmp_path / "run", "data.sprites.validation=200")
    sizes = sizes_in(training.state.method)
    with patch("core.run.validation.FULL", few):
        scores = validation(training.state.method, 0)
    assert sizes["forward"] == {32} and scores["val/nt_xent"] > 0


def gone_wrong(*_):
    raise OSError("the thing is broken")


@pytest.mark.parametrize(
    "method, name, made, words",
    [
        (SimCLR, "embed", lambda self, x: F.one_hot(x), ["a validation", "contrastive.simclr"]),
        (SimCLR, "figures", lambda self, batch: batch.view, ["AttributeError", "view"]),
        (BetaVAE, "monitors", gone_wrong, ["the thing is broken", "test_dry_run.py, line"]),
        (BetaVAE, "criterion", "bits", ["'bits'", "val/elbo"]),
        (SimCLR, "__init__", gone_wrong, ["building of", "the thing is broken"]),
        (SimCLR, "after_step", gone_wrong, ["a training step", "the thing is broken"]),
        (
            SimCLR,
            "embed",
            lambda self, x: torch.empty(2**60),
            ["optim.batch_size", "optim.micro_batch", "memory"],
        ),
    ],
)
def test_a_method_that_fails_later_fails_before_the_folder(
    method, name, made, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(method, name, made)
    answer = train("simclr" if method is SimCLR else "beta_vae", tmp_path / "run")
    assert answer.is_one_line, answer
    assert all(word in answer.err for word in words), answer.err
    assert not list(tmp_path.iterdir())


def test_memory_that_does_not_suffice_for_the_first_step_names_the_keys(tmp_path, monkeypatch):
    original = SimCLR.forward

    def hungry(self, batch):
        torch.empty(2**58)
        return original(self, batch)

    monkeypatch.setattr(SimCLR, "forward", hungry)
    answer = train("simclr", tmp_path / "run", "optim.micro_batch=16")
    assert answer.is_one_line, answer
    assert "optim.batch_size: a training step with 32 images" in answer.err
    assert "optim.micro_batch (now 16)" in answer.err and not list(tmp_path.iterdir())


def test_a_loss_or_gradient_that_is_not_finite_at_the_first_step_is_refused(tmp_path, monkeypatch):
    original = SimCLR.forward

    def infinite(self, batch):
        output = original(self, batch)
        return output._replace(loss=output.loss * float("inf"))

    monkeypatch.setattr(SimCLR, "forward", infinite)
    answer = train("simclr", tmp_path / "run")
    assert answer.is_one_line and "the loss is inf at step 1" in answer.err, answer
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["simclr", "moco", "beta_vae"])
def test_one_validation_image_has_no_spread_and_the_rest_is_measured(method, tmp_path):
    with warnings.catch_warnings():
        # such as torch's warning about the deviation of a single number
        warnings.simplefilter("error", UserWarning)
        answer = train(
            method, tmp_path / "run", *EXTRA[method], "data.sprites.validation=1", "optim.epochs=1"
        )
    assert answer.code == 0, answer.err
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    scores = next(line for line in lines if "val/knn" in line)
    assert scores["val/knn"] in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    absent = ("uniformity", "effective_rank", "deviation", "information_upper")
    assert not [key for key in scores if key.endswith(absent)]


def test_a_float64_checkpoint_is_loaded_and_probed_as_float32(tmp_path):
    more = [*EXTRA["moco"], "trainer.precision=64-true", "optim.epochs=1"]
    answer = train("moco", tmp_path / "run", *more)
    assert answer.code == 0, answer.err
    assert torch.get_default_dtype() == torch.float32
    entries = checkpoint.read(tmp_path / "run/last.ckpt")
    assert entries["method"]["query.backbone.net.0.weight"].dtype == torch.float64
    method, run, step, *_ = checkpoint.load_method(tmp_path / "run/last.ckpt")
    assert step == 8 and run.trainer.precision == "64-true"
    for key, value in method.state_dict().items():
        held = entries["method"][key]
        assert torch.equal(value, held.to(value.dtype)) and value.dtype != torch.float64
    x = next(open_source(run.data, "test", 0).batches(eval_sampler(4), 1)).views[0]
    assert method.encode(x).codes.shape == (4, 128)
    answer = train("moco", tmp_path / "run", *more, "--resume")
    assert answer.code == 0 and "resuming" in answer.out, answer.err


def test_a_scale_survives_a_resumption(tmp_path):
    """With a loss of 20,000 nats, the scale of 16-mixed is halved many times in the first steps."""
    mlp = ["model.backbone=mlp", "model.decoder=mlp", "optim.epochs=2", "trainer.save_every=8"]
    words = ["beta_vae", tmp_path / "run", "trainer.precision=16-mixed", *TINY["beta_vae"], *mlp]
    whole = train(*words)
    assert whole.code == 0, whole.err
    entries = checkpoint.read(tmp_path / "run/last.ckpt")
    earlier = checkpoint.read(tmp_path / "run/last-1.ckpt")
    assert earlier["step"] == 8 and earlier["scaler"]["scale"] < 2**16
    (tmp_path / "run/last-1.ckpt").replace(tmp_path / "run/last.ckpt")
    assert train(*words, "--resume").code == 0
    again = checkpoint.read(tmp_path / "run/last.ckpt")
    assert again["step"] == entries["step"] == 16 and again["scaler"] == entries["scaler"]
    assert all(torch.equal(value, again["method"][key]) for key, value in entries["method"].items())


@pytest.mark.parametrize("scaler", [{"scale": "1"}, [1], {"scale": float("nan")}, 3])
def test_an_invalid_scale_is_refused(scaler, tmp_path):
    training, _ = prepared("simclr", tmp_path / "run", "trainer.precision=16-mixed")
    checkpoint.save(tmp_path / "a.ckpt", training.state)
    entries = checkpoint.read(tmp_path / "a.ckpt")
    own = entries["scaler"]
    entries["scaler"] = {**own, **scaler} if isinstance(scaler, dict) else scaler
    with pytest.raises(UserError, match="gradient scaler"):
        checkpoint.restore(tmp_path / "a.ckpt", entries, training.state)


@pytest.mark.parametrize(
    ("key", "value"), [("scale", -1.0), ("scale", float("inf")), ("_growth_tracker", -1)]
)
def test_a_scale_is_finite_and_not_below_zero(key, value):
    scaler = torch.amp.GradScaler("cpu")
    own = scaler.state_dict()
    checkpoint._restore_scaler(Path("a.ckpt"), own | {key: 3 if key[0] == "_" else 4.0}, scaler)
    assert scaler.state_dict()[key] == (3 if key[0] == "_" else 4.0)
    with pytest.raises(UserError, match="its gradient scaler is invalid"):
        checkpoint._restore_scaler(Path("a.ckpt"), own | {key: value}, scaler)
