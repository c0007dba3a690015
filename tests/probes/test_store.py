"""Reports on disk: strict, signed, and never mixed with reports of other users."""

import json
import re

import pytest

from core.errors import UserError
from probes.registry import PROBES
from probes.report import store
from probes.report.schema import FORMAT, not_finite
from probes.report.table import names
from probes.session import load_probes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def report():
    return {
        "format": FORMAT,
        "checkpoint": "runs/a/last.ckpt",
        "digest": "ab",
        "method": "contrastive.simclr.SimCLR",
        "step": 3,
        "data": "sprites",
        "seed": 0,
        "identity": {"weights": "ab", "data": {"test": {"fingerprint": "f" * 64}}, "seed": 0},
        "options": {},
        "absent": {},
        "linear": {"top1": 0.5, "information": 0.25},
    }


def test_every_number_that_a_schema_allows_to_be_null_is_read():
    said = {
        key
        for probe in load_probes(list(PROBES)).values()
        for key in re.findall(r'"(\w+)" \([^)]*\bnull\b', probe.schema)
    }
    assert {"truth", "copies_left_out"} <= said and said == store.UNKNOWN


def test_a_users_earlier_measurement_of_the_same_data_is_found(tmp_path, report):
    path = tmp_path / "probe.json"
    store.save(report, path)
    assert store.earlier(path, report)["linear"] == report["linear"]
    moved = {"test": report["identity"]["data"]["test"] | {"root": "/elsewhere"}}
    other = report | {"identity": report["identity"] | {"data": moved}}
    assert store.earlier(path, other)["linear"] == report["linear"]  # content, not names
    for key, value in (("weights", "cd"), ("data", {}), ("seed", 1)):
        store.save(report, path)
        other = report | {"identity": report["identity"] | {key: value}}
        assert store.earlier(path, other) == {} and not path.exists()
    kept = sorted(tmp_path.glob("probe-earlier*.json"))  # no numbers are lost
    assert len(kept) == 3
    assert all(store.load(file)["linear"] == report["linear"] for file in kept)


def test_a_crafted_report_is_set_aside_and_not_merged(tmp_path, report, capsys):
    path = tmp_path / "probe.json"
    store.save(report, path)
    crafted = json.loads(path.read_text())
    crafted["linear"]["top1"] = 1.0
    for signature in (crafted["signature"], None, 7, "0" * 64, "é" * 64):
        path.write_text(json.dumps(crafted | {"signature": signature}))
        assert store.earlier(path, report) == {} and not path.exists()
        assert "was not written by this user" in capsys.readouterr().out
    kept = tmp_path.glob("probe-of-others*.json")
    assert sorted(str(json.loads(file.read_text())["signature"])[:2] for file in kept) == sorted(
        [crafted["signature"][:2], "No", "7", "00", "éé"]
    )


@pytest.mark.parametrize("home", ["no folder", "a key that others may read"])
def test_without_a_key_no_report_is_lost(home, tmp_path, report, capsys, monkeypatch):
    """The writer of a report is unknown then, so the report is neither read again nor
    overwritten.
    """
    cache = tmp_path / "file"
    if home == "no folder":
        cache.write_text("")
        cache = cache / "below"
    else:
        cache.mkdir()
        (cache / "key").write_bytes(bytes(32))
        (cache / "key").chmod(0o644)
    monkeypatch.setenv("TWOBOUNDS_CACHE", str(cache))
    path = tmp_path / "probe.json"
    for number in range(3):
        store.save(report | {"linear": {"top1": number / 4}}, path)
        assert store.earlier(path, report) == {} and not path.exists()
        said = capsys.readouterr().out
        assert f"its writer is unknown, because {cache}" in said and "TWOBOUNDS_CACHE" in said
    kept = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("probe-before*.json"))]
    assert sorted(found["linear"]["top1"] for found in kept) == [0, 0.25, 0.5]
    assert store.earlier(path, report) == {} and not capsys.readouterr().out


def test_a_report_of_another_version_is_kept(tmp_path, report, capsys):
    path = tmp_path / "probe.json"
    store.save(report | {"format": "of tomorrow"}, path)
    assert store.earlier(path, report) == {}
    assert "tomorrow" in (tmp_path / "probe-unreadable.json").read_text()
    assert "kept as probe-unreadable.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": "other"}',
        "[" * 100_000,
        '{"a": NaN}',
        "\xff",
        f'{{"format": "{FORMAT}"}}',
    ],
)
def test_a_damaged_report_is_one_line(tmp_path, text):
    path = tmp_path / "probe.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"^[^\n]*probe\.json: [^\n]*`twobounds probe` again$"):
        store.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("linear", {"top1": "high", "information": 0.0}),
        ("linear", [1, 2]),
        ("linear", {"top1": 10**400, "information": 0.0}),
        ("knn", {}),
        ("information", {"critics": {}}),
        ("information", {"critics": {"common": {"sweep": []}}}),
        ("rate", {"rate": 3}),
        ("method", "\x1b[2J"),
        ("checkpoint", "a" * 10_000),
        ("step", True),
        ("seed", 1.5),
    ],
)
def test_a_report_that_holds_something_else_is_one_line(tmp_path, report, key, value):
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(report | {key: value}))
    with pytest.raises(UserError, match=r"^[^\n]*probe\.json: [^\n]*again$") as said:
        store.load(path, load_probes(list(PROBES)))
    assert len(str(said.value)) < 1000


def test_numbers_that_are_not_finite_are_found_wherever_they_are(report, tmp_path):
    assert not_finite({"a": [1.0, {"b": float("inf")}]}) == "a.1.b"
    assert not_finite({"a": [1, None, "x", (2.0, True)]}) == ""
    with pytest.raises(AssertionError):
        store.save(report | {"linear": {"top1": float("nan")}}, tmp_path / "probe.json")


def test_names_are_as_short_as_possible_and_different():
    paths = ["/r/x/seed0/last.ckpt", "/r/y/seed0/last.ckpt", "/r/x/seed0/best.ckpt"]
    assert names([{"checkpoint": path} for path in paths]) == ["x/seed0", "y/seed0", "seed0/best"]
    assert names([{"checkpoint": paths[0]}]) == ["seed0"]
    assert names([{"checkpoint": paths[0]}] * 2) == ["seed0", "seed0 #2"]
