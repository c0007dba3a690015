"""Commands that probe for a table use the report that the same call measured. They use no report on
other data, of another checkpoint or user, or of weights that were replaced in the meantime.
"""

import json
import shutil

import pytest

from core.errors import UserError
from probes.latents import rate_head
from scripts import rate_distortion, shared
from tests.probed import call, report, saved


@pytest.fixture
def curve(monkeypatch, tmp_path):
    """The table of `rate-distortion --checkpoint TARGET`, with heads that hardly train."""
    monkeypatch.setattr(rate_head, "MAX_IMAGES", dict.fromkeys(rate_head.MAX_IMAGES, 64))
    for key in ("NOTHING", "FIRST", "NEXT"):
        monkeypatch.setattr(rate_head, key, (3, 1e-2))

    def made(*words: object) -> dict:
        rate_distortion.main([*map(str, words), "--out", str(tmp_path / "out")])
        return json.loads((tmp_path / "out" / "rate_distortion.json").read_text())

    return made


def test_a_curve_is_of_the_data_and_of_the_checkpoint_that_were_named(tmp_path, curve):
    saved(tmp_path / "run")
    saved(tmp_path / "run", spread=5.0, name="best")
    own = curve("--checkpoint", tmp_path / "run")["curves"][0]
    best = curve("--checkpoint", tmp_path / "run" / "best.ckpt")["curves"][0]
    assert best["points"][0]["digest"] != own["points"][0]["digest"]
    other = curve("--checkpoint", tmp_path / "run", "data.sprites.test=40")["curves"][0]
    assert (own["images"], other["images"]) == (64, 40)


def test_a_report_of_a_stranger_makes_no_curve(tmp_path, curve):
    saved(tmp_path / "run")
    honest = curve("--checkpoint", tmp_path / "run")["curves"][0]["points"]
    held = report(tmp_path / "run")
    for point in held["rate_head"]["points"]:
        point["rate"] |= {"value": 0.5, "low": 0.5, "high": 0.5}
    (tmp_path / "run/probe/probe.json").write_text(json.dumps(held))
    again = curve("--checkpoint", tmp_path / "run")["curves"][0]["points"]
    assert [point["rate"]["value"] for point in again] == [p["rate"]["value"] for p in honest]


def test_curves_of_other_data_with_the_same_name_share_no_picture(tmp_path, curve, capsys):
    for name, overrides in (("one", []), ("two", ["data.sprites.colours=2"])):
        saved(tmp_path / name, overrides=overrides)
    with pytest.raises(SystemExit) as stopped:
        curve("--checkpoint", tmp_path / "one", "--checkpoint", tmp_path / "two")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "the runs are on different data" in said
    assert "draw them in several pictures" in said
    assert not (tmp_path / "out/rate_distortion.png").exists()


def test_a_number_that_can_not_be_measured_is_one_line(tmp_path):
    saved(tmp_path / "run")
    with pytest.raises(UserError, match="no rate: rate: its bounds compare images"):
        shared.probed(tmp_path / "run", "rate", ["data.sprites.test=1"])


def test_a_checkpoint_that_was_replaced_is_not_shown_beside_the_numbers_of_another(tmp_path):
    saved(tmp_path / "run")
    saved(tmp_path / "other", spread=5.0)
    found = shared.probed(tmp_path / "run", "rate")
    assert shared.same_weights(tmp_path / "run/last.ckpt", found).digest == found["digest"]
    shutil.copy(tmp_path / "other/last.ckpt", tmp_path / "run/last.ckpt")
    with pytest.raises(UserError, match="was replaced after it was measured"):
        shared.same_weights(tmp_path / "run/last.ckpt", found)


def test_parallel_calls_keep_the_numbers_of_each_other(tmp_path, monkeypatch):
    """Another call measures linear while this one measures kNN."""
    from probes.labels.knn import KNNProbe

    saved(tmp_path)
    measure = KNNProbe.measure

    def meanwhile(self, frozen, **options):
        call(tmp_path, "--probes", "linear")
        return measure(self, frozen, **options)

    monkeypatch.setattr(KNNProbe, "measure", meanwhile)
    call(tmp_path, "--probes", "knn")
    held = report(tmp_path)
    assert "knn" in held and "linear" in held and set(held["options"]) == {"knn", "linear"}


def test_numbers_are_logged_to_the_run_that_trained_the_measured_weights(tmp_path, monkeypatch):
    """Another run's checkpoint takes the place of the file while it is probed."""
    from core.run import logger
    from probes.labels.knn import KNNProbe

    method = saved(tmp_path / "run", wandb_id="measured")
    saved(tmp_path / "other", wandb_id="stranger")
    measure, ids = KNNProbe.measure, []

    def meanwhile(self, frozen, **options):
        shutil.copy(tmp_path / "other/last.ckpt", tmp_path / "run/last.ckpt")
        return measure(self, frozen, **options)

    class Noted(logger.Logger):
        def __init__(self, run, folder, wandb_id="", **more):
            ids.append(wandb_id)
            super().__init__(run, folder, wandb_id, **more)

    monkeypatch.setattr(KNNProbe, "measure", meanwhile)
    monkeypatch.setattr(logger, "Logger", Noted)
    call(tmp_path / "run", "--probes", "knn")
    assert method.views == 1 and ids == ["measured"]


def test_pictures_of_other_weights_do_not_stay_beside_the_new_numbers(tmp_path):
    saved(tmp_path)
    call(tmp_path, "--probes", "knn")
    call(tmp_path, "--probes", "linear")
    assert (tmp_path / "probe/neighbours.png").is_file()
    (tmp_path / "probe/mine.png").write_bytes(b"a person's own picture")
    saved(tmp_path, spread=5.0)
    call(tmp_path, "--probes", "linear")
    assert [path.name for path in tmp_path.glob("probe/*.png")] == ["mine.png"]
    assert "knn" not in report(tmp_path)
