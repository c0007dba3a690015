"""data.json: a run continues with the data that it began with, unless the user accepts others."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from core.data.datasets import _plain, open_source
from core.errors import UserError
from core.run import config as run_config
from core.run.folder import RunFolder
from core.run.provenance import versions
from tests.front_door import Done, run_script
from tests.pictures import png

ROOT = Path(__file__).parents[2]
KEYS = [
    "data.name=folder",
    "data.validation=4",
    "data.size=8",
    "data.workers=0",
    "data.augment=none",
]


@pytest.fixture
def root(tmp_path) -> Path:
    png(tmp_path / "data", *(f"train/{c}/{i}.png" for c in "ab" for i in range(20)))
    png(tmp_path / "data", *(f"test/{c}/{i}.png" for c in "ab" for i in range(4)))
    return tmp_path / "data"


def goes_on(tmp_path: Path, root: Path, *more: str) -> str:
    """The messages of a run in that folder about its data, which are checked and written."""
    _plain.cache_clear()
    words = [*KEYS, f"data.root={root}", f"folder={tmp_path / 'run'}", *more]
    run = run_config.read(ROOT / "configs/simclr_sprites.yaml", words)
    folder = RunFolder(run.folder)
    folder.check(run)
    folder.check_data(run, open_source(run.data, "train", run.seed))
    folder.create(run)
    folder.last.write_bytes(b"a checkpoint")
    return json.loads(folder.data.read_text())["data"]["fingerprint"]


def red(root: Path) -> None:
    for path in (root / "train/a").iterdir():
        Image.new("RGB", (8, 8), "red").save(path)


def fewer(root: Path) -> None:
    for i in range(3):
        (root / f"train/b/{i}.png").unlink()


def another_class(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "b").rename(root / split / "c")


def test_a_run_keeps_its_data_and_its_versions(tmp_path, root):
    fingerprint = goes_on(tmp_path, root)
    kept = json.loads((tmp_path / "run/data.json").read_text())
    assert kept["data"]["images"] == 36 and kept["data"]["classes"] == ["a", "b"]
    assert kept["versions"] == versions() and {"torch", "timm", "twobounds", "python"} <= {
        *kept["versions"]
    }
    moved = shutil.copytree(root, tmp_path / "moved")
    assert goes_on(tmp_path, moved, "resume=true") == fingerprint, "the same data in another folder"
    assert goes_on(tmp_path, moved, "resume=true", "data.memory=0") != fingerprint


@pytest.mark.parametrize(
    "change, said",
    [
        (red, "other pixels"),
        (fewer, "33 images instead of 36"),
        (another_class, "class 'c' is new and class 'b' is gone"),
    ],
)
def test_other_data_are_refused_unless_they_are_accepted(change, said, tmp_path, root, capsys):
    fingerprint = goes_on(tmp_path, root)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    change(root)
    with pytest.raises(UserError, match=rf"trained on other data: {said}; .*changed=accept$"):
        goes_on(tmp_path, root, "resume=true")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    capsys.readouterr()
    assert goes_on(tmp_path, root, "resume=true", "data.changed=accept") != fingerprint
    assert capsys.readouterr().out == f"data.changed=accept: continues with other data: {said}\n"
    goes_on(tmp_path, root, "resume=true")
    assert not capsys.readouterr().out, "the new data are the run's own from now on"


def test_other_versions_are_reported(tmp_path, root, capsys):
    goes_on(tmp_path, root)
    path = tmp_path / "run/data.json"
    kept = json.loads(path.read_text())
    kept["versions"]["timm"] = "0.4.12\x1b[31m"
    path.write_text(json.dumps(kept))
    goes_on(tmp_path, root, "resume=true")
    said = capsys.readouterr().out
    assert (
        said.startswith(r"other versions: timm '0.4.12\x1b[31m' then, ") and said.count("\n") == 1
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"data": 1, "versions": 3}', "[" * 10**5, '{"versions": {}}', "\0\xff"]
)
def test_a_damaged_record_is_named(text, tmp_path, root, capsys):
    goes_on(tmp_path, root)
    (tmp_path / "run/data.json").write_text(text)
    with pytest.raises(UserError, match=r"data\.json: damaged, .* data\.changed=accept$"):
        goes_on(tmp_path, root, "resume=true")
    assert goes_on(tmp_path, root, "resume=true", "data.changed=accept")


def test_a_run_without_data_json_says_that_its_data_can_not_be_compared(tmp_path, root, capsys):
    goes_on(tmp_path, root)
    (tmp_path / "run/data.json").unlink()
    goes_on(tmp_path, root, "resume=true")
    assert "data.json: missing, so the run's data can not be compared" in capsys.readouterr().out


def test_an_invalid_value_is_refused():
    with pytest.raises(UserError, match=r"data\.changed: 'maybe' is not one of refuse, accept"):
        run_config.read(ROOT / "configs/simclr_sprites.yaml", ["data.changed=maybe", "folder=x"])


def test_by_the_command_line(tmp_path, root):
    words = [str(ROOT / "configs/simclr_sprites.yaml"), *KEYS, "data.augment=simclr"]
    words += [f"data.root={root}", f"folder={tmp_path / 'run'}", "wandb=disabled"]
    words += ["optim.batch_size=12", "optim.epochs=1", "optim.warmup_epochs=0"]

    def run(*more: str) -> Done:
        return run_script("pretrain.py", *words, *more)

    first = run()
    assert first.returncode == 0, first.stderr
    assert json.loads((tmp_path / "run/data.json").read_text())["data"]["images"] == 36
    fewer(root)
    refused = run("--resume")
    assert refused.returncode == 2 and "33 images instead of 36" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr
