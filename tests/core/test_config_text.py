"""Texts of a config are taken literally, and an error names the origin of the wrong value."""

from pathlib import Path

import pytest

from core.errors import UserError
from core.run import checkpoint, config
from core.run.folder import RunFolder
from core.run.logger import Logger
from core.run.optim import OptimConfig, build_optimizer

ROOT = Path(__file__).parents[2]
YAML = ROOT / "configs/simclr_sprites.yaml"

TEXTS = [
    "runs/exp #1",
    "007",
    "1e5",
    "null",
    "yes",
    "0x10",
    "1:30",
    "2026-01-01",
    "a: b",
    "[x]",
    "{y}",
    "'q\"",
    " x ",
    "${oc.env:HOME}",
    "${seed}",
    "${",
    "\\${x}",
    "a\\\\${x}",
    "-",
    "*x",
    "&x",
    "!x",
    "é=ü",
    "~",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["folder", "data.root"])
def test_a_text_key_takes_text_literally(key, text, tmp_path):
    run = config.read(YAML, [f"{key}={text}"])
    there = run.folder if key == "folder" else run.data.root
    assert there == text
    assert config.from_dict(config.to_dict(run), "x") == run
    assert config.override(run, ["optim.lr=0.5"], "x").data.root == run.data.root
    (tmp_path / "config.yaml").write_text(config.to_yaml(run), encoding="utf-8")
    assert config.read(tmp_path / "config.yaml", []) == run  # what a run folder keeps


@pytest.mark.parametrize("text", ["007", "1e5", "yes", "0x10", "1_0", "3.10"])
def test_a_text_key_of_a_file_takes_text_literally(text, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        f"{YAML.read_text()}\n".replace("name: sprites", f"name: sprites\n  root: {text}")
    )
    assert config.read(path, []).data.root == text
    assert config.read(YAML, [f"data={{root: {text}, grey: false}}"]).data.root == text


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 1e-3), ("2", 2.0), ("0.5", 0.5), ("'3'", 3.0), ("${optim.warmup_epochs}", 0.2)],
)
def test_other_keys_are_yaml(text, value):
    assert config.read(YAML, [f"optim.lr={text}"]).optim.lr == value
    assert config.read(YAML, ["trainer.compile=yes"]).trainer.compile is True
    assert config.read(YAML, ["trainer.compile=max-autotune"]).trainer.compile == "max-autotune"


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["optim.lr=fast"], "'optim.lr=fast': optim.lr: Value 'fast'"),
        (["seed=3", "optim.epochs=2.5"], "'optim.epochs=2.5': optim.epochs:"),
        (["seed=-1"], "'seed=-1': seed: must be"),
        (
            ["method=vae.beta.Nothing"],
            "'method=vae.beta.Nothing': method: 'Nothing' is not a method",
        ),
        (["method=vae.beta.BetaVAE"], "'method=vae.beta.BetaVAE': model.projection: unknown key"),
        (["optim.lr=[1"], "'optim.lr=[1': line 1:"),
        (["model={temperature: -1}"], "'model={temperature: -1}': model.temperature: must be"),
        (["trainer.epochs=3"], "did you mean 'optim.epochs'?"),
        (["epochs=3"], "did you mean 'optim.epochs'?"),
        (["optim.temperature=1"], "did you mean 'model.temperature'?"),
        (["data.lr=1"], "did you mean 'optim.lr'?"),
        (["optim.epoch=3"], "did you mean 'optim.epochs'?"),
        (["data.sprites.size=3"], "did you mean 'data.sprites.sizes'?"),
        (["optim.lr"], "'optim.lr': an override is key=value"),
        (["=3"], "'=3': an override is key=value"),
        ([f"seed={2**64}"], "seed: "),
        ([f"seed={'9' * 400}"], "too large for any key"),
        ([f"optim.lr={'9' * 400}"], "too large for any key"),
        ([f"optim.epochs={'9' * 5000}"], "optim.epochs="),
        (["optim.lr=1e400"], "optim.lr: "),
        (["optim.warmup_epochs=3"], "warmup_epochs: 3 epochs are longer than the training"),
        (["optim.epochs=1", "optim.warmup_epochs=1.5"], "warmup_epochs"),
        (["optim.micro_batch=512"], "micro_batch: 512 is more than batch_size, 256"),
        (["trainer.keep_epochs=3"], "trainer.keep_epochs: the run ends after 2 epochs"),
        (["optim.lr=1e307", "optim.batch_size=65536"], "is not finite"),
        (["method=contrastive.moco.MoCo", "model.momentum=0.999"], "momentum_end"),
        (["optim.lr=${oc.decode:1}"], "is refused"),
        (["optim.lr=${oc.create:1}"], "is refused"),
        (["optim.lr=${optim.lr}"], "refers to itself"),
        (["optim.lr=${model}"], "is a section or a list, not a value"),
        (["optim.lr=${oc.env:NO_SUCH_NAME}"], "the environment has no 'NO_SUCH_NAME'"),
        (["x\x1b[2J=1"], "unknown key 'x\\x1b"),
    ],
)
def test_a_mistake_in_an_override_names_it(overrides, words):
    with pytest.raises(UserError) as error:
        config.read(YAML, overrides)
    told = str(error.value)
    assert (
        words in told and "\n" not in told and told.isprintable() and "simclr_sprites" not in told
    )


def test_a_mistake_in_the_file_names_the_file(tmp_path):
    (tmp_path / "x.yaml").write_text(YAML.read_text().replace("lr: 2.0e-3", "lr: fast"))
    with pytest.raises(UserError, match="x.yaml: optim.lr: Value 'fast'"):
        config.read(tmp_path / "x.yaml", ["seed=3"])
    assert config.read(tmp_path / "x.yaml", ["optim.lr=0.1"]).optim.lr == 0.1


def laughs(levels: int) -> bytes:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "content, words",
    [
        ("folder: café\n".encode("latin-1"), "byte 11 is not UTF-8"),
        ("method: x".encode("utf-16"), "is not UTF-8"),
        (b"method: vae.beta.BetaVAE\nfolder: x\nmodel:\n\twidth: 3\n", "line 4"),
        (b"method: vae.beta.BetaVAE\nseed: 1\nseed: 2\n", "duplicate key"),
        (laughs(12), "aliases stand for more than"),
        (b"a: &a [*a]", "nested too deep"),
        (b"a: &a {<<: *a}", "nested too deep"),
        (b"[" * 5000, "nested too deep"),
        (b"x: " + b"y" * 70_000, "longer than 65,536 bytes"),
        (b"method: !!python/object/apply:os.system [x]", "method"),
        (b"method: vae.beta.BetaVAE\nfolder: x\nseed: !!binary aGk=", "bytes is not a value"),
        (b"method: vae.beta.BetaVAE\nfolder: x\nseed: " + b"9" * 400, "too large for any key"),
        (b"method: vae.beta.BetaVAE\nfolder: x\nseed: " + b"9" * 5000, "seed|digits"),
        (b"method: vae.beta.BetaVAE\nfolder: x\n1: 2", "is not a key"),
        (b"method: a\0b", "unacceptable character"),
        (b"a: !x y", "could not determine a constructor|method"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(tmp_path, content, words):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        config.read(tmp_path / "x.yaml", [])
    assert "\n" not in str(error.value) and "x.yaml" in str(error.value)


@pytest.mark.parametrize(
    "path, words",
    [
        ("a\0b.yaml", "a\\x00b"),
        ("configs", "is a folder"),
        ("x" * 5000, "x"),
        ("nothing.yaml", "no such config"),
        ("configs/simclr_sprites.yaml/x", "no such config"),
    ],
)
def test_a_path_that_is_no_config_is_one_line(path, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        config.read(path, [])
    assert words in str(error.value) and str(error.value).isprintable()


def test_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbf" + YAML.read_bytes())
    assert config.read(tmp_path / "x.yaml", []) == config.read(YAML, [])


def from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.RunConfig:
    monkeypatch.setenv("SECRET", "/secret/place")
    monkeypatch.setenv("EPOCHS", "3")
    text = YAML.read_text().replace("epochs: 2\n", "epochs: ${oc.env:EPOCHS}\n")
    text = text.replace("name: sprites", "name: sprites\n  root: ${oc.env:SECRET}/data")
    text = text.replace("folder: runs/simclr_sprites", "folder: ${data.root}/run${seed}")
    (tmp_path / "x.yaml").write_text(text)
    return config.read(tmp_path / "x.yaml", ["seed=4", "model.hidden=16", "wandb=disabled"])


def test_the_environment_is_read_and_a_path_from_it_is_saved_as_written(tmp_path, monkeypatch):
    run = from_environment(tmp_path, monkeypatch)
    assert (run.data.root, run.folder) == ("/secret/place/data", "/secret/place/data/run4")
    assert run.optim.epochs == 3 == config.to_dict(run)["optim"]["epochs"]
    folder = RunFolder(tmp_path / "run")
    folder.create(run)
    method = checkpoint.build_method(run, (3, 32, 32))
    checkpoint.save(folder.last, checkpoint.State(run, method, build_optimizer(method, run.optim)))
    assert "secret" not in folder.config.read_text()
    assert b"/secret" not in folder.last.read_bytes()
    assert "secret" not in repr(Logger(run, folder.path)._options)
    assert "${oc.env:SECRET}/data" in folder.config.read_text()
    assert config.read(folder.config, []) == run
    folder.check(config.override(run, ["resume=true"], "x"))  # it goes on
    stranger = checkpoint.load_method(folder.last).run
    assert stranger.data.root == "${oc.env:SECRET}/data"


def test_an_overridden_path_is_saved_as_the_override(tmp_path, monkeypatch):
    run = config.override(from_environment(tmp_path, monkeypatch), ["data.root=/mine"], "x")
    assert run.data.root == "/mine" == config.to_dict(run)["data"]["root"]
    assert run.folder == "/secret/place/data/run4" and "/mine" in config.to_yaml(run)
    assert config.to_dict(run)["folder"] == "${data.root}/run${seed}"


def test_nested_interpolations_can_not_grow_without_limit(tmp_path):
    lines = ["method: vae.beta.BetaVAE", "folder: ${k30}", f"k0: {'x' * 90}"]
    lines += [f"k{i}: ${{k{i - 1}}}${{k{i - 1}}}" for i in range(1, 31)]
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="becomes text of"):
        config.read(tmp_path / "x.yaml", [])


def test_warmup_may_last_as_long_as_training_but_not_longer():
    assert OptimConfig(epochs=1, warmup_epochs=1.0).warmup_epochs == 1
    with pytest.raises(ValueError, match="set at most 2"):
        OptimConfig(epochs=2, warmup_epochs=2.1)


def test_the_config_of_a_run_folder_imports_no_untrusted_package(tmp_path, monkeypatch):
    """A folder may come from a stranger, so a name in its config.yaml is not the user's choice."""
    (tmp_path / "planted.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    kept = RunFolder(tmp_path / "run")
    run = config.read("simclr_sprites", [f"folder={kept.path}", "resume=true"])
    kept.create(run)
    text = kept.config.read_text()
    kept.config.write_text(text.replace("contrastive.simclr.SimCLR", "planted.Method"))
    with pytest.raises(UserError, match="planted"):
        kept.check(run)
    assert not (tmp_path / "imported").exists()
