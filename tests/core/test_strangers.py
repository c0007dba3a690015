"""A checkpoint from a stranger is only data. It can not make the program run code, open or download
files, or allocate much memory. What it says about itself must be true.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from core.data.datasets import open_source
from core.errors import UserError
from core.method import Method, locate
from core.run import checkpoint, config, logger
from core.trust import option_for
from tests.hostile import BASES, CONFIGS, base, stepped, watched
from tests.mutations import bomb, rezipped


@pytest.fixture(scope="module")
def bases() -> dict[str, tuple[dict[str, Any], checkpoint.State]]:
    return {name: base(name) for name in BASES}


@pytest.fixture
def write(tmp_path, bases):
    """Writes a checkpoint with some changed entries, and returns its path."""

    def written(edit=lambda entries: None, name="simclr_sprites") -> Path:
        target = io.BytesIO()
        torch.save(bases[name][0], target)
        target.seek(0)
        entries = torch.load(target, weights_only=True)
        edit(entries)
        torch.save(entries, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    return written


def set_key(key: str, value: Any):
    def edit(entries: dict[str, Any]) -> None:
        *above, last = key.split(".")
        there = entries["config"]
        for name in above:
            there = there[name]
        there[last] = value

    return edit


ROOTS = [
    "pipe:touch PWNED",
    "http://127.0.0.1:9/x",
    "s3://bucket/x",
    "gs://bucket/x",
    "hf://data",
    "file:///",
    "x::pipe:touch PWNED",
    "shard-{0..9}",
    " / ",
    "/\n",
    "no-such-folder",
    "${oc.env:HOME}",
]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("kind", ["folder", "cifar10"])
def test_a_root_of_a_stranger_is_an_existing_folder(write, tmp_path, monkeypatch, root, kind):
    monkeypatch.chdir(tmp_path)
    for name in ("pipe:touch PWNED", "shard-{0..9}", "file:"):
        (tmp_path / name).mkdir()  # a folder of that name is not the package

    def edit(entries):
        entries["config"]["data"] |= {"name": kind, "root": root, "download": True}

    run = checkpoint.load_method(write(edit)).run
    with pytest.raises(UserError, match=r"data\.root: the checkpoint names .*data\.root=FOLDER"):
        open_source(run.data, "test", 0)
    assert not run.data.download
    with pytest.raises(UserError, match="could not be read|holds no |without readable"):
        open_source(config.override(run, [f"data.root={tmp_path}"], "x").data, "test", 0)


@pytest.mark.parametrize("kind", ["wds/x", "hfds/someone/set", "tfds/x", "torch/cifar10"])
def test_data_that_download_or_run_programs_need_an_override(write, tmp_path, kind):
    run = checkpoint.load_method(write(set_key("data.name", kind))).run
    for words in ([], [f"data.root={tmp_path}"], ["data.download=true"]):
        with pytest.raises(UserError, match=f"add data.name={kind} data.root=FOLDER"):
            open_source(config.override(run, words, "x").data, "test", 0)
    own = config.override(run, [f"data.name={kind}", f"data.root={tmp_path}"], "x")
    with pytest.raises(UserError) as error:
        open_source(own.data, "test", 0)
    assert "the checkpoint's data" not in str(error.value)


def test_an_existing_folder_is_used_and_the_config_is_restored_unchanged(write, tmp_path):
    run = checkpoint.load_method(write(set_key("data.root", str(tmp_path)))).run
    assert run.data.root == str(tmp_path) and len(open_source(run.data, "test", 0)) > 0
    assert config.to_dict(run) == checkpoint.read(tmp_path / "last.ckpt")["config"]


@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "${seed}", "${oc.decode:1}", "${", "\\${x}"])
def test_text_of_a_checkpoint_is_literal(write, monkeypatch, tmp_path, text):
    monkeypatch.setenv("SECRET", "leaked")
    path = write(set_key("folder", text))
    run = checkpoint.load_method(path).run
    assert run.folder == text == config.to_dict(run)["folder"]
    assert config.override(run, ["data.size=0"], "x").folder == text
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "leaked" not in repr(logger.attach(run, run, tmp_path, "", "")._options)


BOMBS = [
    ("simclr_sprites", set_key("model.hidden", 2**40)),
    ("simclr_sprites", set_key("model.projection", 2**62)),
    ("simclr_sprites", set_key("model.backbone", "vit_giant_patch14_dinov2")),
    ("moco_sprites", set_key("model.queue", 10**7)),
    ("beta_vae_sprites", set_key("model.prior.steps", 10**9)),
    ("beta_vae_sprites", set_key("model.prior.width", 10**6)),
    ("beta_vae_sprites", set_key("model.latent", 2**31)),
    ("simclr_sprites", lambda entries: entries.update(shape=[4096] * 3)),
    ("simclr_sprites", lambda entries: entries.update(shape=[3, 4096, 4096])),
    ("simclr_sprites", lambda entries: entries.update(config=bomb())),
    ("simclr_sprites", set_key("trainer", {"x": bomb()})),
    ("simclr_sprites", lambda entries: entries.update(best=torch.zeros(1).expand(2**40))),
    ("simclr_sprites", set_key("seed", 10**5000)),
    ("simclr_sprites", set_key("data.sprites.test", 2**24)),
    ("simclr_sprites", set_key("data.linear_gaussian.side", 2**40)),
]


@pytest.mark.parametrize("number", range(len(BOMBS)))
def test_sizes_are_compared_before_they_are_allocated(write, number):
    name, edit = BOMBS[number]

    def read(path, _):
        with pytest.raises(UserError):
            open_source(checkpoint.load_method(path).run.data, "test", 0)
        return "refused"

    found = watched(read, write(edit, name), None)
    assert found["outcome"] == "refused" and found["seconds"] < 5 and found["MiB"] < 1024, found


def test_a_large_split_needs_an_override(write):
    run = checkpoint.load_method(write(set_key("data.sprites.test", 2**22 + 1))).run
    with pytest.raises(UserError, match=r"add data\.sprites\.test=4194305"):
        open_source(run.data, "test", 0)
    own = config.override(run, ["data.sprites.test=300"], "x")
    assert len(open_source(own.data, "test", 0)) == 300


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["head.layers.0.weight", "backbone.net.1.running_var"])
def test_weights_are_finite_when_they_are_loaded(write, key, value):
    def edit(entries):
        entries["method"][key].view(-1)[3] = value

    with pytest.raises(UserError, match=f"{key}.* is not finite"):
        checkpoint.load_method(write(edit))


@pytest.mark.parametrize("counter, value", [("pointer", 64), ("filled", 2**40), ("pointer", -1)])
def test_counters_of_a_queue_are_inside_it(write, counter, value):
    def edit(entries):
        entries["method"][f"queue.{counter}"].fill_(value)

    with pytest.raises(UserError, match=f"{counter}' {value}.*outside"):
        checkpoint.load_method(write(edit, "moco_sprites"))


def test_a_mask_is_the_methods_own(write):
    """A flow that sees the values that it predicts has no valid density."""

    def edit(entries):
        masks = [key for key in entries["method"] if key.endswith("mask")]
        assert masks
        entries["method"][masks[0]].fill_(True)

    with pytest.raises(UserError, match="is a mask"):
        checkpoint.load_method(write(edit, "beta_vae_sprites"))


def moments(key: str, change):
    def edit(entries):
        kept = entries["optimizer"]["state"][2]
        kept[key] = change(kept[key])

    return edit


def group(key: str, value: Any):
    return lambda entries: entries["optimizer"]["param_groups"][0].update({key: value})


MOMENTS = {
    "a longer moment": moments("exp_avg", lambda x: torch.zeros(x.numel() * 3)),
    "a shorter moment": moments("exp_avg_sq", lambda x: x[:1].clone()),
    "another type": moments("exp_avg", lambda x: x.double()),
    "repeated numbers": moments("exp_avg", lambda x: torch.zeros(1).expand(x.shape)),
    "sparse": moments("exp_avg", lambda x: x.to_sparse()),
    "meta": moments("exp_avg", lambda x: x.to("meta")),
    "NaN": moments("exp_avg", lambda x: x * float("nan")),
    "a negative square": moments("exp_avg_sq", lambda x: x - 1),
    "no tensor": moments("exp_avg", lambda x: 1.0),
    "steps that nobody took": moments("step", lambda x: x + 10**6),
    "half a step": moments("step", lambda x: x - 0.5),
    "a step for each number": moments("step", lambda x: torch.ones(3)),
    "a moment too many": lambda e: e["optimizer"]["state"][0].update(max_exp_avg_sq=torch.ones(1)),
    "a moment too few": lambda e: e["optimizer"]["state"][0].pop("exp_avg"),
    "a parameter too many": lambda e: e["optimizer"]["state"].update({10**6: {}}),
    "a parameter that is a word": lambda e: e["optimizer"]["state"].update(x={}),
    "another decay": group("weight_decay", 5.0),
    "a rate that is no number": group("lr", float("nan")),
    "betas": group("betas", (2.0, 0.999)),
    "amsgrad": group("amsgrad", True),
    "an option too many": group("x", 1),
    "other members": group("params", [0, 0, 0]),
    "no groups": lambda e: e["optimizer"].update(param_groups=[]),
    "no state": lambda e: e["optimizer"].pop("state"),
    "a step below zero": lambda e: e.update(step=-1),
    "a step that is a word": lambda e: e.update(step="7"),
    "a best that is NaN": lambda e: e.update(best=float("nan")),
    "an id with a path": lambda e: e.update(wandb_id="../../x"),
    "another config": set_key("optim.lr", 0.25),
    "another shape": lambda e: e.update(shape=[3, 64, 64]),
}


@pytest.mark.parametrize("what", MOMENTS)
def test_the_checkpoint_of_a_resumed_run_is_checked(write, bases, what):
    state = bases["simclr_sprites"][1]
    path = write()
    checkpoint.restore(path, checkpoint.read(path), state)
    stepped(state)
    path = write(MOMENTS[what])
    with pytest.raises(UserError, match="last.ckpt"):
        checkpoint.restore(path, checkpoint.read(path), state)


def test_two_moments_that_share_a_tensor_become_two_tensors(write, bases):
    def edit(entries):
        for kept in entries["optimizer"]["state"].values():
            kept["exp_avg_sq"] = kept["exp_avg"] = torch.ones_like(kept["exp_avg"])

    state = bases["simclr_sprites"][1]
    path = write(edit)
    checkpoint.restore(path, checkpoint.read(path), state)
    kept = next(iter(state.optimizer.state.values()))
    assert kept["exp_avg"].data_ptr() != kept["exp_avg_sq"].data_ptr()


def records_of(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as file:
        return [(name, file.read(name)) for name in file.namelist()]


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: rezipped(r, compress=r[4][0]),
        lambda r: rezipped([*r, r[4]]),
        lambda r: rezipped([(n, b[:-4] if n == r[4][0] else b) for n, b in r]),
        lambda r: rezipped([(n, b + b"1234" if n == r[4][0] else b) for n, b in r]),
        lambda r: rezipped([*r, *((f"archive/{i}", b"") for i in range(20_000))]),
        lambda r: rezipped(r) + b"x",
        lambda r: rezipped([*r, ("other/data.pkl", b"")]),
        lambda r: rezipped([("archive/data.pkl", b"\x80\x02]r\xff\xff\xff\xff."), *r[1:]]),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_is_as_torch_writes_it(write, edit):
    path = write()
    path.write_bytes(rezipped(records_of(path)))
    # the unchanged file is read, so the edit is the reason for the refusal
    checkpoint.load_method(path)
    path.write_bytes(edit(records_of(path)))
    with pytest.raises(UserError):
        checkpoint.read(path)


class Import:
    def __reduce__(self):
        return __import__, ("evil_canary",)


def test_nothing_that_a_pickle_names_is_imported(write, tmp_path, monkeypatch):
    (tmp_path / "evil_canary.py").write_text("import pathlib; pathlib.Path('PWNED').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write()
    records = [
        (name, pickle.dumps(Import(), 2) if name.endswith("data.pkl") else content)
        for name, content in records_of(path)
    ]
    path.write_bytes(rezipped(records))
    with pytest.raises(UserError, match="__import__"):
        checkpoint.read(path)
    assert not (tmp_path / "PWNED").exists()


OWN = """
from contrastive.simclr import SimCLR, SimCLRConfig

open("IMPORTED", "w").close()


class Mine(SimCLR):
    Config = SimCLRConfig


Other = SimCLR
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package of a user's own in the current directory, and a config that names its method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWOBOUNDS_TRUST", raising=False)
    name = f"mypkg_{tmp_path.name.strip('0123456789')[-12:].strip('_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "mine.py").write_text(OWN)
    text = (CONFIGS / "simclr_sprites.yaml").read_text()
    text = text.replace("contrastive.simclr.SimCLR", f"{name}.mine.Mine")
    (tmp_path / "mine.yaml").write_text(text)
    return name


def test_a_users_own_config_may_name_a_package_of_their_own(own_package, tmp_path):
    run = config.read("mine.yaml", [])
    assert issubclass(config.method_class(run), Method) and (tmp_path / "IMPORTED").exists()
    assert type(checkpoint.build_method(run, (3, 32, 32))).__name__ == "Mine"
    with pytest.raises(UserError, match="not a method of"):  # imported there, but defined elsewhere
        config.read("mine.yaml", [f"method={own_package}.mine.Other"])


def test_a_checkpoint_may_name_what_the_user_trusts(own_package, write, tmp_path, monkeypatch):
    path = write(set_key("method", f"{own_package}.mine.Mine"))
    for trusted in ((), ("mypkg",), (f"{own_package}x",), (f"{own_package}.min",)):
        with pytest.raises(UserError, match=f"--trust {own_package} "):
            checkpoint.load_method(path, trusted=trusted)
    assert not (tmp_path / "IMPORTED").exists(), "the name is checked before anything is imported"
    loaded = checkpoint.load_method(path, trusted=(own_package,))
    assert type(loaded.method).__name__ == "Mine"
    monkeypatch.setenv("TWOBOUNDS_TRUST", f"other,{own_package}")
    assert type(checkpoint.load_method(path).method).__name__ == "Mine"


@pytest.mark.parametrize("name", ["os.system", "os.path", "..x.Y", "x/y.Z", "a b.C", "vae", "é.X"])
def test_a_name_that_is_no_class_is_refused(name):
    with pytest.raises(UserError):
        locate(name, ["os", "x", "a b", "é"])


def test_the_option_that_a_users_own_package_needs(monkeypatch):
    assert option_for("contrastive.simclr.SimCLR", "sprites", "hfds/a.b/c") == ""
    assert (
        option_for("mine.a.Mine", "toys.rings.Rings", "mine.b.Set") == " --trust mine --trust toys"
    )
    monkeypatch.setenv("TWOBOUNDS_TRUST", "mine")
    assert option_for("mine.a.Mine", "mnist") == ""


@pytest.mark.parametrize("text", ["\x1b[2Jx", "\u202ex", "a\0b", "\x9bx"])
def test_an_error_shows_a_strangers_text_as_escapes(write, text):
    with pytest.raises(UserError) as error:
        checkpoint.load_method(write(set_key("model.backbone", text * 50_000)))
    assert str(error.value).isprintable() and len(str(error.value)) <= 2000


def test_a_damaged_checkpoint_advises_another_one(write, tmp_path):
    path = write()
    (tmp_path / "best.ckpt").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoint.Damaged, match="such as last.ckpt"):
        checkpoint.read(tmp_path / "best.ckpt")
    path.unlink()
    with pytest.raises(checkpoint.Damaged) as error:
        checkpoint.read(tmp_path / "best.ckpt")
    assert str(error.value).count("best.ckpt") == 1
