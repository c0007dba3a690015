"""The commands in README.md and docs/ work: every fenced command is run at toy size, and the method
of one file goes through pretraining, probes and the contract.

A new command is run as it is written, on toy runs. If that takes too long, `TOY` shortens it, or
`FEW` in tests/quick.py if constants of the code must be smaller.
"""

import configparser
import functools
import glob
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml

from core.data.datasets import EMBEDDED
from core.frozen import Frozen
from core.method import LatentModel, PairCritic
from core.run import config
from probes.latents.rate import RateProbe
from tests.front_door import ROOT, Done, run_code
from tests.pictures import png
from tests.quick import QUICK
from vae.beta import BetaVAE, BetaVAEConfig

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [
    "optim.epochs=1",
    "optim.batch_size=32",
    "optim.warmup_epochs=0",
    "data.compile=false",
    "data.sprites.train=64",
    "data.sprites.validation=64",
    "data.sprites.test=64",
    "data.captioned_sprites.train=64",
    "data.captioned_sprites.validation=64",
    "data.captioned_sprites.test=64",
    "data.linear_gaussian.train=64",
    "data.linear_gaussian.validation=64",
    "data.linear_gaussian.test=64",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.compile=false",
    "wandb=disabled",
]
PICTURES = ("pictures", "animals")  # values of data.root in docs/your-data.md
BUILD = """from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8))
"""
# Additional arguments of a script, so that it takes seconds. `{train}` stands for the result of
# `toy_overrides` for the config.
TOY = {
    "pretrain.py": ["{train}"],
    "sweep.py": ["{train}", "--probes", "knn"],
    "rate_distortion.py": ["{train}", "--betas", "1,3"],
    "sprites_truth.py": ["--contents", "2", "model.backbone=small", *SMALL],
    "information.py": ["--estimators", "infonce,ksg"],
    "calibrate.py": ["--pairs", "60", "--only", "5 x 5 of 0"],
    # vectors and pictures; a test of the bench draws codes
    "verdicts.py": ["--sources", "2", "--pairs", "200"],
    "intervals.py": ["--nats", "2", "--dimensions", "2", "--pairs", "200", "--draws", "2"],
    "demo.py": ["--help"],  # its steps are commands that are run here one by one
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> dict[str, list[str]]:
    """The words of every command, by its text: each line of a `bash` block, and of a block without
    a language if its first line begins with `make`, `python` or `$`.
    """
    found = {}
    for page in PAGES:
        for language, text in blocks(page):
            plain = not language and re.match(r"(\$ |make |python )", text)
            if not plain and language not in ("bash", "sh", "console"):
                continue
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words:
                    found[shlex.join(words)] = words
    return found


def toy_overrides(path: str, given: list[str]) -> list[str]:
    """Overrides that make the training of this config short, and possible without its data set."""
    one = [word for word in given if "=" in word and "," not in word and word[0] != "-"]
    run = config.read(path, one)
    own = run.data.root in PICTURES  # folders of pictures, which `prepare` makes
    more = [*SMALL, *([] if own or run.data.name in EMBEDDED else ["data.name=sprites"])]
    if run.data.size and run.data.name not in EMBEDDED:
        more.append("data.size=16" if own else "data.size=0")
    fields = {"backbone": "small", "queue": "64"}
    chosen = {word.partition("=")[0] for word in given}
    return more + [
        f"model.{key}={value}"
        for key, value in fields.items()
        if hasattr(run.model, key) and f"model.{key}" not in chosen
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that looks like a clone, for the runs."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "scripts", "docs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(place: Path, words: list[str]) -> None:
    """Run one command, or check what is possible on one machine without a network."""
    program, *rest = from_a_checkout(words)
    if program == "make":
        return make(place, rest)
    if program == "torchrun":
        return torchrun(rest)
    if program in ("pip", "uv"):
        return extras(rest)
    if program in ("git", "cd", "export", "source"):
        return None
    prepare(place, rest)
    told = start(place, program, rest)
    assert told.returncode == 0, f"{shlex.join(words)}\n{told.stdout}\n{told.stderr}"


def from_a_checkout(words: list[str]) -> list[str]:
    """`twobounds NAME ...`, alone or under torchrun, or a bench, as a call of its script."""
    if words[:2] == ["python", "-m"] and words[2].startswith("scripts.benches."):
        return ["python", words[2].replace(".", "/") + ".py", *words[3:]]
    place = next((i for i, word in enumerate(words) if word == "twobounds"), None)
    if place is None or len(words) < place + 2 or words[place + 1] == "COMMAND":
        return words
    before = ["python"] if place == 0 else [word for word in words[:place] if word != "-m"]
    rest = [
        f"configs/{word}.yaml" if (ROOT / f"configs/{word}.yaml").exists() else word
        for word in words[place + 2 :]
    ]
    return [*before, f"scripts/{words[place + 1].replace('-', '_')}.py", *rest]


def start(place: Path, program: str, words: list[str]) -> Done:
    given = [
        match
        for word in map(os.path.expandvars, words)
        for match in sorted(glob.glob(word, root_dir=place)) or [word]
    ]
    if re.fullmatch(r"python3?", program) and given[0] == "-m":
        code = f"import runpy; runpy.run_module({given[1]!r}, run_name='__main__', alter_sys=True)"
        return run_code(code, *given[2:], cwd=place)
    if re.fullmatch(r"python3?", program):
        return run_code(QUICK, ROOT / given[0], *shortened(given), cwd=place)
    entry = entry_points().get(program)
    assert entry, f"{program}: a program that these tests can not run"
    module, function = entry.split(":")
    return run_code(f"from {module} import {function} as main; main()", *given, cwd=place)


def shortened(words: list[str]) -> list[str]:
    """The words after the script's name, with those that make it short."""
    script, given = Path(words[0]).name, words[1:]
    configs = [word for word in given if word.endswith(".yaml")]
    more = TOY.get(script, [])
    if "{train}" in more and not configs:  # it trains nothing
        more = []
    if script == "probe.py" and "data.name=sprites" in given:
        given = [*given, *(word for word in SMALL if word.startswith("data.sprites"))]
    for word in more:
        given = [*given, *(toy_overrides(configs[0], given) if word == "{train}" else [word])]
    return given


def prepare(place: Path, words: list[str]) -> None:
    """Make the runs and the pairs that a command reads, unless an earlier command has made them."""
    for word in words:
        prepare_foreign(place, words, word)
        if word.endswith(".npz") and not ("--embeddings" in words or (place / word).exists()):
            x = np.random.default_rng(0).normal(size=(60, 2))
            np.savez(place / word, x=x, y=x + np.random.default_rng(1).normal(size=(60, 2)))
        alone = "selection.py" in words[0] and not (place / "runs/selection").exists()
        if word == "runs/*" and alone:  # enough runs of one data set
            run(place, ["python", words[0], "--quick"])
        if word.startswith("runs/*") and not any(place.glob(f"{word}/probe/probe.json")):
            run(place, ["python", "scripts/probe.py", "runs/simclr_sprites"])
        name = word.removeprefix("runs/").split("/")[0]
        there = (place / "runs" / name / "last.ckpt").exists()
        made = [given for given in commands().values() if f"folder=runs/{name}" in given]
        if word.startswith("runs/") and made and not there:
            run(place, made[0])
            there = True
        if word in [f"data.root={root}" for root in PICTURES]:
            prepare_pictures(place)
        if word.startswith("runs/") and (ROOT / f"configs/{name}.yaml").exists() and not there:
            run(place, ["python", "scripts/pretrain.py", f"configs/{name}.yaml"])


def prepare_pictures(place: Path) -> None:
    """The folders of docs/your-data.md: without labels, with a list, and with classes."""
    if (place / "pictures").exists():
        return
    lines = ["path,species,sex,split"]
    for i in range(80):
        lines.append(f"far/{i}.png,{['robin', 'wren'][i % 2]},{i // 2 % 2},")
        lines[-1] += "test" if i >= 60 else "train"
        split, kind = ("test" if i >= 60 else "train"), ("cat", "dog")[i % 2]
        png(place, f"pictures/far/{i}.png", f"animals/{split}/{kind}/2019/{i}.png")
    (place / "pictures/labels.csv").write_text("\n".join(lines))


def prepare_foreign(place: Path, words: list[str], word: str) -> None:
    """Make the weights, features or exports that a command of docs/foreign.md reads."""
    if word == "mypackage.mine:build":
        (place / "mypackage").mkdir(exist_ok=True)
        (place / "mypackage/mine.py").write_text(BUILD)
    if word == "init=weights/moco.pth.tar" and not (place / word[5:]).exists():
        save_weights(place / word[5:])
    if (place / word).exists() or not words[0].endswith(("probe.py", "compare.py")):
        return
    export = ["python", "scripts/export.py", "runs/simclr_sprites"]
    if word == "exported":
        run(place, [*export, "-o", word])
    if word == "embeddings.npz":
        run(place, [*export, "--embeddings", word])
    if word == "features.npz":
        save_features(place / word)
    if word == "weights/moco.pth.tar":
        save_weights(place / word)
    if word == "weights/moco.pth.tar" and words[0].endswith("compare.py"):
        asked = ["--timm", "test_resnet", "--weights", word, "--size", "32", "data.name=sprites"]
        run(place, ["python", "scripts/probe.py", *asked])


def save_weights(path: Path) -> None:
    """A small network in MoCo's layout."""
    path.parent.mkdir()
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    held = {f"module.encoder_q.{key}": value for key, value in state.items()}
    torch.save({"state_dict": held}, path)


def save_features(path: Path) -> None:
    rng = np.random.default_rng(0)
    held = {f"x_{split}": rng.normal(size=(80, 4)) for split in ("train", "test")}
    held |= {f"second_{split}": held[f"x_{split}"] + 0.1 for split in ("train", "test")}
    labels = {f"y_{split}": rng.integers(0, 3, 80) for split in ("train", "test")}
    np.savez(path, **held, **labels)


def make(place: Path, words: list[str]) -> None:
    """Check that the target exists, and run the scripts of its recipe."""
    told = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for script in re.findall(r"python (scripts/\S+)", told.stdout):
        done = start(place, "python", [script])
        assert done.returncode == 0, done.stderr


def torchrun(words: list[str]) -> None:
    """Check that its config is valid, and that its number of processes agrees with the config."""
    options = dict(word.lstrip("-").split("=") for word in words if word.startswith("--"))
    script, path, *overrides = (word for word in words if not word.startswith("--"))
    trainer = config.read(ROOT / path, overrides).trainer
    assert (ROOT / script).exists()
    assert int(options["nproc-per-node"]) == int(trainer.devices)
    assert int(options.get("nnodes", 1)) == trainer.num_nodes


def extras(words: list[str]) -> None:
    """Check that the extras in brackets are in setup.cfg."""
    for names in re.findall(r"\[(.*)\]", " ".join(words)):
        assert set(names.split(",")) <= set(setup()["options.extras_require"])


def entry_points() -> dict[str, str]:
    """The commands that an installation provides."""
    if not setup().has_section("options.entry_points"):
        return {}
    lines = setup()["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(map(str.strip, line.split("=")) for line in lines)  # type: ignore[misc]


@functools.cache
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.mark.parametrize("words", commands().values(), ids=commands().keys())
def test_a_command_of_the_documentation_runs(place, words):
    run(place, words)


def method_of_one_file() -> tuple[str, str, str]:
    """The method of docs/extending.md: its file and its YAML."""
    text = (ROOT / "docs/extending.md").read_text()
    (section,) = (
        part for part in text.split("\n## ") if re.search(r"^class \w+\(Method", part, re.M)
    )
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", section, re.M | re.S)
    return section, code, settings


def test_the_method_of_one_file_trains_is_probed_and_fulfils_the_contract(tmp_path):
    """As in docs/extending.md: a user's own package, with the YAML beside it."""
    _, code, settings = method_of_one_file()
    settings = settings.replace("temperature: 0.2", "temperature: 0.2, backbone: small")
    assert "backbone: small" in settings, "a large network would take minutes"
    place, name = re.match(r"# (\w+)/(\w+)\.py\n", code).groups()
    for file, text in ((f"{place}/{name}.py", code), (f"configs/{name}.yaml", settings)):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(text)
    found = f"import os, sys\nsys.path[:0] = {[str(ROOT), str(tmp_path)]!r}\n"
    found += f"os.environ['TWOBOUNDS_TRUST'] = {place!r}\n"  # as the user's --trust
    contract = f"""
from pathlib import Path
from tests import test_contract
test_contract.test_a_config_runs(Path("configs/{name}.yaml"), Path("."))
test_contract.test_every_network_is_compiled_in_the_mode_that_was_asked_for(Path("configs/{name}.yaml"))
"""
    folder = yaml.safe_load(settings).get("folder", f"runs/{name}")
    for code, *words in (
        [contract],
        [QUICK, ROOT / "scripts/pretrain.py", f"configs/{name}.yaml", f"folder={folder}", *SMALL],
        [QUICK, ROOT / "scripts/probe.py", folder, "--trust", place],
    ):
        told = run_code(found + code, *words, cwd=tmp_path)
        assert told.returncode == 0, told.stderr
    assert "own critic" in told.stdout or "native" in told.stdout, told.stdout


def test_the_parts_of_the_documentation_do_what_it_says():
    """The code of docs/extending.md on backbones, heads and random numbers; it has assertions."""
    text = (ROOT / "docs/extending.md").read_text()
    (section,) = (part for part in text.split("\n## ") if part.startswith("Parts to build on"))
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    found: dict = {}
    exec(compile(code, "docs/extending.md", "exec"), found)  # our own page
    assert found["backbone"].dim == 256
    assert (found["place"] >= 0).all() and (found["place"] < 1).all()
    assert found["colour"].dtype == torch.int64 and found["colour"].max() < 10
    assert sorted(found["order"].tolist()) == [0, 1, 2, 3]
    norms = [m for m in found["backbone"].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 4  # four convolutions


def test_the_documented_members_of_a_method_are_enough_for_the_probes(tmp_path):
    """A method with the members that docs/extending.md names, and no others, has a rate."""
    section, _, _ = method_of_one_file()
    named = set(re.findall(r"`(\w+)", section))
    for protocol in (PairCritic, LatentModel):
        members = {name for name in vars(protocol) if not name.startswith("_")}
        assert members | set(protocol.__annotations__) <= named, (
            "the page does not name all members"
        )
    run = config.RunConfig(
        method="vae.beta.BetaVAE",
        model=BetaVAEConfig(width=4, latent=2),
        folder=str(tmp_path),
        data=config.DataConfig(),
    )
    run.data.sprites.train = run.data.sprites.validation = run.data.sprites.test = 64
    whole = BetaVAE(run.model, (3, 32, 32)).eval()
    members = {name for name in named if hasattr(LatentModel, name)} | {"embed", "forward"}

    def passed_on(name: str):
        return lambda self, *given: getattr(whole, name)(*given)

    narrow = type("Narrow", (type(whole).__mro__[1],), {name: passed_on(name) for name in members})
    frozen = Frozen(narrow(run.model, (3, 32, 32)), run)
    assert RateProbe().measure(frozen).numbers["rate"]["value"] >= 0
