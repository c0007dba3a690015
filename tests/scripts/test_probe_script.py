"""The probe command from a checkpoint to its report, on a VAE with every prior; the files that it
keeps, and the words that it refuses.
"""

import math
import sys

import pytest
import torch

from core.data.sprites import Sprites
from core.run import checkpoint, config
from core.run.checkpoint import State
from core.run.optim import build_optimizer
from core.run.validation import Validation
from probes.labels.knn import KNNProbe
from probes.registry import DEFAULT, ON_REQUEST, PROBES
from probes.report import table
from probes.session import load_probes
from scripts import compare
from scripts import probe as script
from tests.probed import SPRITES, call, report, saved


@pytest.mark.parametrize("prior", ["standard", "vamp", "flow"])
def test_a_vae_of_every_prior_is_probed_from_its_file(tmp_path, capsys, prior):
    saved(tmp_path, prior)
    probes = "rate,disentanglement,likelihood,ais"
    options = ("likelihood.k=20", "--images", "30", "--steps", "3", "ais.chains=2")
    call(tmp_path, "--probes", probes, *options)
    found, said = report(tmp_path), capsys.readouterr().out
    factorises = prior == "standard"
    for place in (found["rate"], found["rate"]["on_these_images"]):
        assert ("dimension_wise_kl" in place) == factorises
    assert ("closed-form" in found["rate"]["rate"]["estimator"]) == factorises
    assert ("dimension-wise KL" in said) == factorises and "total correlation" in said
    factors = ["shape", "colour", "row", "column"]
    assert found["disentanglement"]["factors"] == factors and "MIG" in said
    assert (found["likelihood"]["k"], found["likelihood"]["images"]) == (20, 30)
    assert (found["ais"]["steps"], found["ais"]["chains"], found["ais"]["images"]) == (3, 2, 30)
    for name, bound in (("likelihood", "importance_weighted"), ("ais", "annealed")):
        assert list(found[name]).index("nelbo") < list(found[name]).index(bound)
        assert found[name][bound]["value"] <= found[name]["nelbo"]["value"]
    assert said.index("by the ELBO") < said.index("importance-weighted") < said.index("annealed")
    numbers = table.numbers(found, load_probes(list(PROBES)))
    assert all(math.isfinite(value) for value in numbers.values())
    assert {"rate", "likelihood/importance_weighted", "ais/annealed"} <= set(numbers)
    pictures = {path.stem for path in (tmp_path / "probe").glob("*.png")}
    drawn = {"reconstructions", "traversals", "samples"}
    assert pictures == drawn | ({"dimensions"} if factorises else set())


def test_a_collapsed_vae_is_called_so(tmp_path, capsys):
    saved(tmp_path, spread=0.0)
    call(tmp_path, "--probes", "rate")
    said = "collapsed: 0 of 4 units active, z carries at most 0.00 nats"
    assert said in capsys.readouterr().out


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
        assert scores["val/active_units"] == (4 if share else 0)
        assert (scores["val/information_upper"] > 1) == (share > 0)
    assert said == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--probes", "likelihood", "--k", "0"], "likelihood.k: must be 1 or more, got 0"),
        (["--seed", "-1"], "--seed: must be 0 or more and below 2^63, got -1"),
        (["--seed", str(2**63)], "--seed: must be 0 or more and below 2^63, got 92233"),
        (["--k", "5"], "--k: this is an option of likelihood; add it to --probes"),
        (["--images", "5"], "--images: this is an option of likelihood and ais; add it"),
        (["--probes", "elbo"], "--probes: there is no 'elbo' (valid: "),
        (["--probes", "ais", "ais.step=3"], "ais.step: the probe has no such option (did you mean"),
        (["--probes", "ais", "ais.steps=x"], "'ais.steps=x': must be a whole number"),
        (["model.width=3"], "'model.width=3': only data.* and wandb.* of a checkpoint's config"),
        (["--probes", "nowhere.at.All"], "--probes: there is no file nowhere/at.py for"),
        (["--probes", "json.JSONDecoder"], "--probes: 'JSONDecoder' of json is not a subclass of"),
    ],
)
def test_invalid_words_are_one_line(capsys, words, line):
    with pytest.raises(SystemExit) as stopped:
        call("runs/none", *words)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith(f"error: {line}") and said.count("\n") == 1


def test_a_checkpoint_without_a_posterior_reports_the_missing_parts(tmp_path, capsys):
    from contrastive.simclr import SimCLR

    run = config.RunConfig(
        method="contrastive.simclr.SimCLR",
        model=SimCLR.Config(backbone="small"),
        folder=str(tmp_path),
        data=config.DataConfig(sprites=SPRITES),
        wandb=config.WandbConfig("disabled"),
    )
    method = checkpoint.build_method(run, (3, 32, 32))
    checkpoint.save(tmp_path / "last.ckpt", State(run, method, build_optimizer(method, run.optim)))
    call(tmp_path, "--probes", "rate,likelihood,disentanglement")
    said, found = capsys.readouterr().out, report(tmp_path)
    assert "no rate: contrastive.simclr.SimCLR has no posterior" in said
    assert set(found["absent"]) == {"rate", "likelihood"}
    assert "rate" not in found and "disentanglement" in found


def test_the_slow_probes_are_asked_for_by_name():
    assert set(PROBES) - set(DEFAULT) == set(ON_REQUEST)
    for name, probe in load_probes(list(PROBES)).items():
        assert probe.on_request == (name in ON_REQUEST) and probe.summary and probe.schema


def test_an_interrupted_call_continues_with_the_missing_probes(tmp_path, capsys, monkeypatch):
    saved(tmp_path)

    def interrupted(self, frozen, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(KNNProbe, "measure", interrupted)
        call(tmp_path, "--probes", "linear,knn")
    assert stopped.value.code == 130
    first = report(tmp_path)
    assert "linear" in first and "knn" not in first
    call(tmp_path, "--probes", "linear,knn")
    assert "linear was measured before" in capsys.readouterr().out
    assert report(tmp_path)["linear"] == first["linear"] and "knn" in report(tmp_path)
    call(tmp_path, "--probes", "linear", "--again")
    assert "linear …" in capsys.readouterr().out


def test_reports_of_other_weights_data_and_seeds_never_mix(tmp_path):
    saved(tmp_path)
    saved(tmp_path, spread=5.0, name="best")
    call(tmp_path, "--probes", "linear")
    call(tmp_path, "--probes", "linear", "--best")
    assert report(tmp_path)["linear"] != report(tmp_path, "probe-best")["linear"]
    call(tmp_path, "--probes", "knn", "data.sprites.test=100")
    (other,) = tmp_path.glob("probe-sprites-*")
    assert "linear" not in report(tmp_path, other.name) and "knn" not in report(tmp_path)
    call(tmp_path, "--probes", "knn", "--seed", "1")
    assert "linear" not in report(tmp_path)


def test_a_users_probe_is_one_file(tmp_path, capsys, monkeypatch):
    saved(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "spectrum.py").write_text(
        "from probes.probe import Found, Probe\n\n\n"
        "class Spectrum(Probe):\n"
        "    name, summary, columns = 'spectrum', 'the largest singular value', ('sigma',)\n"
        "    options = {'power': 1}\n\n"
        "    def measure(self, frozen, power):\n"
        "        x = frozen.features('test').x\n"
        "        return Found({'largest': x.svd().S[0].item() ** power})\n\n"
        "    def cells(self, numbers):\n"
        "        return [f\"{numbers['largest']:.3f}\"]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = "mine.spectrum.Spectrum"
    call(tmp_path, "--probes", f"linear,{own}", f"{own}.power=2")
    found, said = report(tmp_path), capsys.readouterr().out
    assert "sigma" in said and f"{found['spectrum']['largest']:.3f}" in said
    assert found["options"]["spectrum"] == {"power": 2}
    sys.modules.pop("mine.spectrum"), sys.modules.pop("mine")


def test_numbers_outlive_a_picture_that_is_interrupted(tmp_path, capsys, monkeypatch):
    saved(tmp_path)
    call(tmp_path, "--probes", "linear")

    def interrupted(self, found, frozen, folder):
        assert report(tmp_path)["knn"] == found.numbers, "saved before anything is drawn"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KNNProbe, "figures", interrupted)
        with pytest.raises(SystemExit):
            call(tmp_path, "--probes", "knn")
    left = report(tmp_path)
    assert "knn" in left and "linear" in left and not list(tmp_path.glob("probe/neighbours.png"))
    capsys.readouterr()
    call(tmp_path, "--probes", "linear,knn")
    said = capsys.readouterr().out
    assert "linear was measured before" in said and "knn was measured before" not in said
    assert report(tmp_path)["knn"] == left["knn"] and list(tmp_path.glob("probe/*.png"))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("method", ["vae", "simclr"])
def test_a_split_of_one_image_stops_no_probe(split, method, tmp_path, capsys):
    """What can not be measured says why, and the rest is there."""
    if method == "vae":
        saved(tmp_path)
    else:
        overrides = [f"folder={tmp_path}", "model.hidden=8", "model.projection=8", "wandb=disabled"]
        run = config.read("configs/simclr_sprites.yaml", overrides)
        run.data.sprites = SPRITES
        made = checkpoint.build_method(run, (3, 32, 32))
        checkpoint.save(tmp_path / "last.ckpt", State(run, made, build_optimizer(made, run.optim)))
    names = "linear,knn,geometry,disentanglement,rate,information"
    call(tmp_path, f"data.sprites.{split}=1", "--probes", names)
    found = report(tmp_path)
    assert all((name in found) != (name in found["absent"]) for name in names.split(","))
    assert all(found["absent"].values()) and "knn" in found
    if split == "test":
        assert set(found["absent"]) >= {"geometry", "disentanglement", "rate", "information"}


def test_a_number_that_is_not_finite_is_absent_with_its_reason(tmp_path, capsys, monkeypatch):
    saved(tmp_path)
    from probes.probe import Found

    found = Found({"knn200": {"top1": math.nan}})
    monkeypatch.setattr(KNNProbe, "measure", lambda self, frozen, **options: found)
    call(tmp_path, "--probes", "knn,disentanglement")
    made = report(tmp_path)
    assert made["absent"] == {"knn": "its number knn200.top1 is not finite"}
    assert "knn" not in made and "disentanglement" in made


def test_seeds_of_drawn_data_are_compared_as_one_config(tmp_path, capsys):
    """Another seed draws other sprites, from the same population."""
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        saved(tmp_path / f"seed{seed}", seed=seed)
    runs = [tmp_path / "seed0", tmp_path / "seed1"]
    call(*runs, "--probes", "linear")
    prints = [report(run)["identity"]["data"] for run in runs]
    assert set(prints[0]) == {"train", "val", "test"}
    assert prints[0]["test"]["fingerprint"] != prints[1]["test"]["fingerprint"]
    capsys.readouterr()
    compare.main([*map(str, runs), "--out", str(tmp_path / "compare.png")])
    assert "2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "least", "most", "wrong"),
    [
        ("--crop", "0.1", "2", ["0.09", "0", "2.01", "nan", "-1", "x"]),
        ("--size", "1", "4096", ["0", "4097", "-1", "1.5", "x"]),
    ],
)
def test_numbers_of_a_foreign_encoder_have_limits(option, least, most, wrong, capsys):
    for word in (least, most):
        found = script.arguments(["--timm", "resnet18", option, word])
        assert getattr(found, option[2:]) == float(word)
    for word in wrong:
        with pytest.raises(SystemExit):
            script.arguments(["--timm", "resnet18", f"{option}={word}"])
        assert f"'{word}': give a number" in capsys.readouterr().err
