"""The commands: one entry for all, `--help` without heavy imports, every script imports from its
own checkout, and a wheel that works without the repository.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from core.commands import command, parser
from core.errors import UserError
from core.run import config
from scripts.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "contrastive", "vae", "probes", "scripts", "configs")
HEAVY = ("torch", "timm", "matplotlib", "lightly", "scipy", "sklearn", "lightning_fabric", "wandb")
NAMES = [name.replace("-", "_") for name in COMMANDS]


def python(
    *words: str | Path, cwd: Path, path: str | Path = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that knows only the checkout in `path`."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    given = {"PYTHONPATH": str(path)} if path else {}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=kept | given | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"} | environment,
        check=False,
    )


def copied(folder: Path) -> Path:
    """A second checkout, without files that are not part of the repository."""
    junk = shutil.ignore_patterns("__pycache__", "*.pyc")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=junk)
    for name in ("twobounds.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_every_script_with_a_main_is_a_command():
    scripts = {
        path.stem
        for path in (ROOT / "scripts").glob("*.py")
        if "\ndef main(" in path.read_text() and path.stem != "__main__"
    }
    assert scripts == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_imports_nothing_heavy(name, tmp_path):
    code = f"""
import sys
from scripts.{name} import main
try:
    main(["--help"])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = [module for module in {HEAVY} if module in sys.modules]
assert not heavy, heavy
"""
    told = python("-c", code, cwd=tmp_path, path=ROOT)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("usage: ")


def test_the_list_of_commands_and_of_configs_imports_nothing_heavy(tmp_path):
    code = f"""
import sys
from scripts.__main__ import main
for words in (["--help"], ["configs"], ["--version"]):
    main(words)
assert not [module for module in {HEAVY} if module in sys.modules]
"""
    told = python("-c", code, cwd=tmp_path, path=ROOT)
    assert told.returncode == 0, told.stderr
    assert all(f"  {name} " in told.stdout for name in (*COMMANDS, "configs"))
    assert "I(V1; V2) = log 288" in told.stdout  # of the head of simclr_sprites


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pretrian"], "no command 'pretrian' (did you mean 'pretrain'?)"),
        (["config"], "no command 'config' (did you mean 'configs'?)"),
        (["rate_distorsion"], "did you mean 'rate-distortion'?"),
        (["configs", "all"], "configs: takes no arguments, got 'all'"),
        (["scaling", "--batch", "1"], "--batch: must be 2 or more, got 1"),
        (["bench", "quue"], "no section 'quue' (did you mean 'queue'?)"),
        (["calibrate", "--pairs", "3"], "--pairs: must be 50 or more, got 3"),
    ],
)
def test_a_wrong_word_is_one_line(words, line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    told = capsys.readouterr()
    assert stop.value.code == 2 and not told.out
    assert told.err.startswith("error: ") and line in told.err and told.err.count("\n") == 1


def test_main_uses_the_words_that_it_is_given_and_not_those_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pytest", "--nonsense"])
    with pytest.raises(SystemExit) as stop:
        main(["information", "no.npz"])
    assert stop.value.code == 2 and "no.npz: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("called", "shown", "usage"),
    [
        ("/venv/bin/twobounds", "twobounds rate-distortion", "twobounds rate-distortion"),
        ("/x/twobounds.py", "python -m twobounds rate-distortion", "python -m twobounds rate-dist"),
        ("/x/scripts/__main__.py", "python -m scripts rate-distortion", "python -m scripts rate-"),
        ("scripts/rate_distortion.py", "python scripts/rate_distortion.py", "rate_distortion.py"),
        ("/x/pytest/__main__.py", "python scripts/rate_distortion.py", "__main__.py"),
    ],
)
def test_help_shows_a_command_as_the_user_called_it(called, shown, usage, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert command("rate_distortion") == command("rate-distortion") == shown
    about = (
        "One line.\n\n    twobounds rate-distortion linear_vae\n    torchrun -m twobounds scaling\n"
    )
    told = parser("rate_distortion", about).format_help()
    assert told.startswith(f"usage: {usage}")
    assert f"    {shown} linear_vae\n    torchrun -m twobounds scaling\n" in told


@pytest.mark.parametrize("path", ["", ROOT], ids=["alone", "beside another checkout"])
@pytest.mark.parametrize("name", [*NAMES, "__main__"])
def test_a_script_runs_its_own_checkout(name, path, second, tmp_path):
    told = python(second / "scripts" / f"{name}.py", "--help", cwd=tmp_path, path=path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("usage: ")
    assert set(told.stderr.split()) == {f"{room}-of-the-second" for room in ("core", "configs")}


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A checkout whose packages print a line when they are imported."""
    folder = copied(tmp_path_factory.mktemp("second"))
    for room in ("core", "configs"):
        place = folder / room / "__init__.py"
        said = f"\nimport sys\nprint('{room}-of-the-second', file=sys.stderr)\n"
        place.write_text(place.read_text() + said)
    for script in (folder / "scripts").glob("*.py"):  # so that each script imports both
        script.write_text(
            script.read_text().replace("\nfrom core", "\nimport configs\nfrom core", 1)
        )
    return folder


def test_configs_are_found_by_name_and_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = configs.CONFIGS / "simclr_sprites.yaml"
    names = ["simclr_sprites", "simclr_sprites.yaml", "configs/simclr_sprites.yaml"]
    for name in [*names, "configs/simclr_sprites"]:
        assert configs.find(name) == packaged
        assert config.read(name, []).method == "contrastive.simclr.SimCLR"
    for name in (
        "/x/simclr_sprites.yaml",
        "mine/simclr_sprites.yaml",
        "../simclr_sprites",
        "",
        "..",
    ):
        assert configs.find(name) == Path(name)
    own = packaged.read_text().replace("SimCLR on", "Mine on").replace("simclr_sprites", "own")
    Path("simclr_sprites.yaml").write_text(own)
    assert configs.find("simclr_sprites.yaml") == Path("simclr_sprites.yaml")
    assert config.read("simclr_sprites.yaml", []).folder == "runs/own"
    with pytest.raises(UserError, match=r"no such config \(did you mean 'simclr_sprites'\?\)"):
        config.read("simclr_sprits", [])


def test_every_config_has_a_name_and_a_head():
    assert set(configs.names()) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert all(len(configs.head(name)) > 10 for name in configs.names())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installed wheel, without any other part of the repository."""
    if not (importlib.util.find_spec("pip") and importlib.util.find_spec("setuptools")):
        pytest.skip("a wheel is built with pip and setuptools, and one of them is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    source = copied(folder / "source")
    pip = ("-m", "pip", "--disable-pip-version-check")
    build = ("wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "-w", folder)
    told = python(*pip, *build, cwd=folder)
    assert told.returncode == 0, told.stderr
    (wheel,) = folder.glob("twobounds-*.whl")
    shutil.rmtree(source)
    place = folder / "site"
    told = python(*pip, "install", "--no-deps", "--no-index", "--target", place, wheel, cwd=folder)
    assert told.returncode == 0, told.stderr
    return place


@pytest.mark.parametrize("door", ["bin/twobounds", "twobounds.py"])
def test_the_wheel_lists_its_commands_and_configs(installed, door, tmp_path):
    def call(*words: str) -> str:
        told = python(installed / door, *words, cwd=tmp_path, path=installed)
        assert told.returncode == 0, told.stderr
        return told.stdout

    assert "rate-distortion" in call("--help")
    assert "usage: " in call("demo", "--help")
    assert str(installed) in call("configs") and "vlae_omniglot" in call("configs")
    assert call("--version") == f"twobounds {_version()}\n"


def _version() -> str:
    line = next(x for x in (ROOT / "setup.cfg").read_text().splitlines() if x[:9] == "version =")
    return line.split("=")[1].strip()


def test_the_wheel_trains_and_compares_without_the_repository(installed, tmp_path):
    small = ["optim.epochs=1", "optim.batch_size=32", "trainer.validate_every=0"]
    sizes = ["data.sprites.train=64", "data.sprites.test=64", "data.sprites.validation=64"]
    words = ["pretrain", "simclr_sprites", *small, *sizes, "trainer.accelerator=cpu"]
    told = python(installed / "bin/twobounds", *words, cwd=tmp_path, path=installed)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "runs/simclr_sprites/last.ckpt").is_file()
    told = python(installed / "bin/twobounds", "compare", "runs", cwd=tmp_path, path=installed)
    assert told.returncode == 2 and "twobounds probe" in told.stderr
    told = python("-c", "import core; print(core.__file__)", cwd=tmp_path, path=installed)
    assert told.stdout.strip() == str(installed / "core" / "__init__.py")
