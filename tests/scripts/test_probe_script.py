"""scripts/probe.py from a checkpoint to its report, on a VAE of every prior; and what it
refuses.
"""

from core.data.sprites import Sprites, SpritesConfig
from core.run import checkpoint, config
from core.run.checkpoint import State
from core.run.optim import build_optimizer

import json
import math

import pytest
import torch

from probes import report, sentences
from scripts import probe as script
from scripts.probe_table import DEFAULT, PROBES
from scripts.validation import Validation
from vae.beta import BetaVAE, BetaVAEConfig
from vae.priors import PriorConfig

SPRITES = SpritesConfig(shapes=2, colours=3, sizes=1, grid=2, train=300, validation=128, test=200)


def saved(folder, prior: str = "standard", spread: float = 50.0) -> BetaVAE:
    """A checkpoint of an untrained VAE whose posterior means vary."""
    model = BetaVAEConfig(width=8, latent=4, likelihood="logistic", prior=PriorConfig(prior))
    run = config.RunConfig(
        method="vae.beta.BetaVAE",
        model=model,
        folder=str(folder),
        data=config.DataConfig(sprites=SPRITES),
        wandb="disabled",
    )
    torch.manual_seed(0)
    method = checkpoint.build_method(run, (3, 32, 32))
    torch.nn.init.normal_(method.to_posterior.weight, std=spread)
    checkpoint.save(folder / "last.ckpt", State(run, method, build_optimizer(method, run.optim)))
    return method


def call(monkeypatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["probe.py", *map(str, words)])
    script.main()


@pytest.mark.parametrize("prior", ["standard", "vamp", "flow"])
def test_a_vae_of_every_prior_is_probed_from_its_file(tmp_path, monkeypatch, capsys, prior):
    saved(tmp_path, prior)
    words = (
        "--probes",
        "rate,disentanglement,likelihood,ais",
        "--k",
        "20",
        "--images",
        "30",
        "--steps",
        "3",
        "--chains",
        "2",
    )
    call(monkeypatch, tmp_path, "--device", "cpu", *words)
    found, said = (
        json.loads((tmp_path / "probe" / "probe.json").read_text()),
        capsys.readouterr().out,
    )
    factorises = prior == "standard"
    for place in (found["rate"], found["rate"]["on_these_images"]):
        assert ("dimension_wise_kl" in place) == factorises
    assert ("closed-form" in found["rate"]["rate"]["estimator"]) == factorises
    assert ("dimension-wise KL" in said) == factorises and "total correlation" in said
    assert (
        found["disentanglement"]["factors"] == ["shape", "colour", "row", "column"]
        and "MIG" in said
    )
    assert (found["likelihood"]["k"], found["likelihood"]["images"]) == (20, 30)
    assert (found["ais"]["steps"], found["ais"]["chains"], found["ais"]["images"]) == (3, 2, 30)
    for name, bound in sentences.BOUNDS.items():
        assert list(found[name]).index("nelbo") < list(found[name]).index(bound)
        assert found[name][bound]["value"] <= found[name]["nelbo"]["value"]
    assert said.index("by the ELBO") < said.index("importance-weighted") < said.index("annealed")
    numbers = report.numbers(found)
    assert all(math.isfinite(value) for value in numbers.values()) and {
        "rate",
        "likelihood/importance_weighted",
        "ais/annealed",
    } <= set(numbers)
    pictures = {path.stem for path in (tmp_path / "probe").glob("*.png")}
    assert pictures == {"reconstructions", "traversals"} | ({"dimensions"} if factorises else set())


def test_a_collapsed_vae_is_called_so(tmp_path, monkeypatch, capsys):
    saved(tmp_path, spread=0.0)
    call(monkeypatch, tmp_path, "--device", "cpu", "--probes", "rate")
    assert (
        "collapsed: 0 of 4 units active, z carries at most 0.00 nats"
        in capsys.readouterr().out
    )


def test_training_warns_once_of_a_code_that_collapses(tmp_path):
    method = saved(tmp_path)
    run = config.RunConfig(
        method="vae.beta.BetaVAE",
        model=method.config,
        folder=str(tmp_path),
        data=config.DataConfig(sprites=SPRITES),
    )
    run.optim.batch_size = 64
    validation = Validation(run, torch.device("cpu"), Sprites(SPRITES, "train", 0))
    kept = method.to_posterior.weight.detach().clone()
    said = []
    for share in (1.0, 0.0, 0.0, 1.0, 0.0):
        method.to_posterior.weight.data = share * kept
        scores = validation(method, 0)
        said.append("collapsed: 0 of 4 units active" in validation.warning)
        assert scores["val/active_units"] == (4 if share else 0) and (
            scores["val/information_upper"] > 1
        ) == (share > 0)
    assert said == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--probes", "likelihood", "--k", "0"], "--k: must be 1 or more, got 0"),
        (["--k", "5"], "--k: none of the probes asked for reads it; add --probes likelihood"),
        (
            ["--probes", "likelihood", "--steps", "5"],
            "--steps: none of the probes asked for reads it; add --probes ais",
        ),
        (
            ["--images", "5"],
            "--images: none of the probes asked for reads it; add --probes likelihood or ais",
        ),
        (["--probes", "elbo"], "--probes: there is no 'elbo'; choose among " + ", ".join(PROBES)),
    ],
)
def test_what_can_not_be_is_one_line(monkeypatch, capsys, words, line):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "runs/none", *words)
    assert stopped.value.code == 2 and capsys.readouterr().err == f"error: {line}\n"


def test_a_checkpoint_without_a_posterior_is_told_what_is_left_out(tmp_path, monkeypatch, capsys):
    from contrastive.simclr import SimCLR

    run = config.RunConfig(
        method="contrastive.simclr.SimCLR",
        model=SimCLR.Config(backbone="small"),
        folder=str(tmp_path),
        data=config.DataConfig(sprites=SPRITES),
        wandb="disabled",
    )
    method = checkpoint.build_method(run, (3, 32, 32))
    checkpoint.save(tmp_path / "last.ckpt", State(run, method, build_optimizer(method, run.optim)))
    call(monkeypatch, tmp_path, "--device", "cpu", "--probes", "rate,likelihood,disentanglement")
    said, found = (
        capsys.readouterr().out,
        json.loads((tmp_path / "probe" / "probe.json").read_text()),
    )
    assert (
        "no rate: contrastive.simclr.SimCLR has no posterior" in said and "no likelihood: " in said
    )
    assert "rate" not in found and "disentanglement" in found


def test_the_slow_probes_are_asked_for_by_name():
    assert set(PROBES) - set(DEFAULT) == {"likelihood", "ais", "rate_head"}
