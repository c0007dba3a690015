"""Ways to start a run and to continue it: `--resume RUN`, more epochs, `init`; and `keys`."""

import json

import pytest
import torch

from core.errors import UserError
from core.run import checkpoint, config, keys
from core.run.initial import start_from
from scripts import keys as command
from tests.front_door import ROOT
from tests.in_process import call, train
from tests.starts import saved

SIZES = ["model.hidden=16", "model.projection=8"]


def steps(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_is_enough_to_resume_and_to_train_longer(tmp_path):
    run = tmp_path / "run"
    assert train("simclr", run, *SIZES, "optim.epochs=1").code == 0
    moved = run.rename(tmp_path / "moved")
    answer = call("--resume", str(moved))
    assert answer.code == 0 and "resuming" in answer.out and "at step 8" in answer.out
    assert steps(moved)[-1] == 8 and not run.exists()
    answer = call(str(moved), "--resume", "optim.epochs=2")
    assert answer.code == 0 and steps(moved)[-1] == 16
    (said,) = (line for line in answer.out.splitlines() if line.startswith("trains longer"))
    assert "2 epochs instead of 1. From step 8" in said and "would have been 0," in said
    assert config.read(moved / "config.yaml", []).optim.epochs == 2
    answer = call("--resume", str(moved), "optim.epochs=1")
    assert answer.is_one_line and "can only train longer" in answer.err
    answer = call("--resume", str(moved), "optim.lr=0.5")
    assert answer.is_one_line and "optim.lr is 0.002 there and 0.5 here" in answer.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["{t}"], "without config.yaml"),
        (["{t}/run"], "is a run folder; add --resume"),
        (["--resume", "{t}/none"], "no such config"),
        (["optim.lr=1"], "name a config"),
        (["--resume"], "name a config"),
    ],
)
def test_a_wrong_start_is_refused(words, said, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("method: contrastive.simclr.SimCLR\nfolder: x\n")
    answer = call(*(word.format(t=tmp_path) for word in words))
    assert answer.code == 2 and said in answer.err


def test_the_config_of_a_run_folder_imports_no_package_that_the_user_has_not_named(tmp_path):
    text = "method: evil.run.Me\nfolder: x\n"
    (tmp_path / "config.yaml").write_text(text)
    answer = call("--resume", str(tmp_path))
    assert answer.is_one_line and "--trust evil" in answer.err


def new(name="simclr_sprites", *more):
    run = config.read(ROOT / f"configs/{name}.yaml", list(more))
    return checkpoint.build_method(run, (3, 32, 32))


def test_init_gives_all_weights_of_the_same_method(tmp_path):
    given = saved(tmp_path / "run/last.ckpt", "moco_sprites", "model.queue=256")
    method = new("moco_sprites", "model.queue=256")
    said, digest = start_from(method, str(tmp_path / "run"))
    assert "all" in said and "(step 7)" in said
    assert digest == checkpoint.digest(tmp_path / "run/last.ckpt")
    assert all(torch.equal(value, given[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize("source, target", [("simclr", "moco"), ("moco", "simclr")])
def test_init_gives_the_backbone_to_another_method(source, target, tmp_path):
    given = saved(tmp_path / "x.ckpt", f"{source}_sprites")
    method, fresh = new(f"{target}_sprites"), new(f"{target}_sprites").state_dict()
    said, _ = start_from(method, str(tmp_path / "x.ckpt"))
    made = method.state_dict()
    backbones = {"simclr": ["backbone."], "moco": ["query.backbone.", "key.backbone."]}
    inner = [key.removeprefix("backbone.") for key in made if key.startswith("backbone.")] or [
        key.removeprefix("backbone.") for key in given if key.startswith("backbone.")
    ]
    first = backbones[source][0]
    loaded = {f"{place}{key}": f"{first}{key}" for place in backbones[target] for key in inner}
    assert len(loaded) >= 10 and all(torch.equal(made[x], given[y]) for x, y in loaded.items())
    kept = [key for key in made if key not in loaded]
    assert kept and all(torch.equal(made[key], fresh[key]) for key in kept)
    assert f"{len(kept)} other weights are new" in said


@pytest.mark.parametrize(
    "name, more, said",
    [
        ("simclr_sprites", ["model.backbone=resnet18"], "nearest backbone .* has|holds no '"),
        ("beta_vae_sprites", [], "holds no 'net"),
    ],
)
def test_init_from_another_network_is_one_line(name, more, said, tmp_path):
    saved(tmp_path / "x.ckpt", name, *more)
    with pytest.raises(UserError, match=said) as error:
        start_from(new(), str(tmp_path / "x.ckpt"))
    assert str(error.value).startswith("init: ") and str(tmp_path / "x.ckpt") in str(error.value)


def test_init_refuses_what_is_missing_foreign_or_not_finite(tmp_path):
    with pytest.raises(UserError, match="init: .*no such checkpoint"):
        start_from(new(), str(tmp_path / "none.ckpt"))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickle.ckpt")
    with pytest.raises(UserError, match="init: .*refused"):
        start_from(new(), str(tmp_path / "pickle.ckpt"))
    saved(tmp_path / "x.ckpt")
    entries = checkpoint.read(tmp_path / "x.ckpt")
    next(iter(entries["method"].values())).fill_(float("nan"))
    torch.save(dict(entries), tmp_path / "x.ckpt")
    for method in (new(), new("simclr_sprites", "model.hidden=16")):
        with pytest.raises(UserError, match="not finite"):
            start_from(method, str(tmp_path / "x.ckpt"))


def test_a_run_from_given_weights_differs_keeps_their_digest_and_resumes_without_them(tmp_path):
    given = tmp_path / "first/last.ckpt"
    assert train("simclr", given.parent, *SIZES, "optim.epochs=1").code == 0
    more = [*SIZES, "optim.epochs=1", f"init={given.parent}"]
    answer = train("simclr", tmp_path / "second", *more)
    assert answer.code == 0 and "init: all" in answer.out
    held = json.loads((tmp_path / "second/data.json").read_text())
    assert held["init"] == checkpoint.digest(given)
    one, two = (checkpoint.read(tmp_path / name / "last.ckpt") for name in ("first", "second"))
    assert not all(torch.equal(one["method"][k], two["method"][k]) for k in one["method"])
    given.unlink()
    answer = call("--resume", str(tmp_path / "second"), "optim.epochs=2")
    assert answer.code == 0 and "init:" not in answer.out, answer.err
    assert json.loads((tmp_path / "second/data.json").read_text())["init"] == held["init"]


def test_the_page_of_settings_is_the_list_of_keys():
    page = (ROOT / "docs/settings.md").read_text()
    assert page == keys.markdown(keys.sections()), "run `twobounds keys --markdown`"
    assert "|  |" not in page, "every key has a meaning"


def test_every_listed_key_is_a_key_with_this_default():
    for method in keys.methods():
        held = config.to_dict(
            config.from_dict({"method": method, "folder": "x"}, "test", [method.split(".")[0]])
        )
        names = keys.sections()
        for section in ("run", "data", "optim", "trainer", "wandb", f"model of {method}"):
            for key in names[section]:
                value = held
                for part in key.name.split("."):
                    value = value[part]
                if key.default != "needed":
                    assert keys._yaml(value) == key.default, key


@pytest.mark.parametrize(
    "word, there, absent",
    [
        ("optim", "optim.lr = 0.001", "trainer.devices"),
        ("contrastive.moco.MoCo", "model.queue = 4096", "optim.lr"),
        ("queue", "model.queue = 4096", "model.hidden"),
    ],
)
def test_keys_are_found_by_section_method_or_word(word, there, absent, capsys):
    command.main([word])
    said = capsys.readouterr().out
    assert there in said and absent not in said
    with pytest.raises(SystemExit):
        command.main(["quue"])
    assert "did you mean 'queue'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word, meant",
    [
        ("lr=1", "optim.lr"),
        ("optim.backbone=x", "model.backbone"),
        ("wandb.projct=x", "wandb.project"),
        ("batch_size=3", "optim.batch_size"),
        ("data.devices=2", "trainer.devices"),
    ],
)
def test_the_nearest_key_of_all_sections_is_suggested(word, meant):
    with pytest.raises(UserError) as error:
        config.read(ROOT / "configs/simclr_sprites.yaml", [word])
    assert f"did you mean '{meant}'" in str(error.value)
