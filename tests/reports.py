"""Artificial reports of probed checkpoints, and `compare` called in this process."""

import json
import math

from probes.report.schema import FORMAT
from scripts import compare


def information(shift=0.0, truth=4.0):
    rows = [
        {"K": k, "candidates": k + 1, "loss": 0.1, "bound": math.log(k) - shift, "low": 0.5}
        | {"high": math.log(k) + 0.1, "ceiling": math.log(k + 1), "best_possible": math.log(k)}
        for k in (16, 32, 63)
    ]
    for row in rows:
        row["low"] = row["bound"] - 0.1
    critic = {"temperature": 0.1, "scale": 10.0, "cap": 9.0, "verdict": "converged", "sweep": rows}
    return {"truth": truth, "split": "test", "critics": {"common": critic}}


def rate(r=8.0):
    def part(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    named = {"rate": r, "distortion": 90.0, "nelbo": 90 + r, "lower": r - 2, "upper": r + 1}
    return {key: part(value) for key, value in named.items()} | {
        "ceiling": 9.0,
        "active_units": 3,
        "latent_dimensions": 8,
        "marginal_kl": {"quantity": "KL", "low": 0.0, "high": 2.0},
    }


def compression(images=4):
    """A chain of images that each move 90, 100 + place and 30 bits, and three places to stop."""
    moves = [
        {"image": images - 1 - place, "start": 0.0 if place else 128.0, "popped": 90.0}
        | {"pixels": 100.0 + place, "prior": 30.0, "net": 40.0 + place, "content": 78.0}
        | {"d": 35.0 + place, "r": 4.0}
        for place in range(images)
    ]
    speed = {"seconds": 1.0, "cpu_seconds": 1.0, "million_values_a_second": 1.0}
    return {
        "quantity": "length of a lossless file", "unit": "bits/dim", "split": "test",
        "images": images, "image_values": 64, "bound": 0.65, "floored": 0.65, "net": 0.66,
        "gross": 0.7, "overhead_percent": 7.7, "bytes": 24, "start_bits": 128,
        "bits": {"popped": 360.0, "pixels": 406.0, "prior": 120.0},
        "encode": speed, "decode": speed, "machine": "33 GFLOP/s, quiet", "threads": 1,
        "baselines": [{"name": "PNG", "each": 2.0, "mosaic": 1.5}], "moves": moves,
        "partial": [
            {"dimensions": count, "written": 10.0 * count, "rate": 2.0 * count,
             "distortion": 80.0 - 10 * count}
            for count in (0, 1, 4)
        ],
    }  # fmt: skip


def written(folder, *, seed=0, top1=0.5, data="sprites", print_="f", key="k", **more):
    """A report of folder/last.ckpt."""
    prints = {split: {"fingerprint": print_ * 64} for split in ("train", "test")}
    report = {
        "format": FORMAT,
        "checkpoint": str(folder / "last.ckpt"),
        "digest": "ab",
        "method": "contrastive.simclr.SimCLR",
        "step": 3,
        "data": data,
        "seed": 0,
        "config_key": key,
        "identity": {"data": prints, "run_seed": seed, "views": "crop"},
        "options": {},
        "absent": {},
        "linear": {"top1": top1, "information": top1 / 2},
        "knn": {"knn200": {"top1": top1, "k": 200.0, "temperature": 0.1}},
        "information": information(1 - top1),
    } | more
    path = folder / "probe" / "probe.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report))
    return folder


def call(capsys, *words, main=compare.main):
    """Exit code, stdout and stderr of a command's `main`."""
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(answer):
    code, out, err = answer
    return code == 2 and not out and len(err.strip().splitlines()) == 1 and err
