"""As in test_shown.py, for the probes that are measured on request, and those of texts."""

import pytest

from probes.account import AccountProbe
from probes.labels.certified import CertifiedProbe
from probes.labels.classes import ClassesProbe
from probes.labels.finetune import FinetuneProbe
from probes.labels.low_shot import LowShotProbe
from probes.labels.mlp import MLPProbe
from probes.labels.rank import RankProbe
from probes.labels.usable import UsableProbe
from probes.latents.compression import CompressionProbe
from probes.latents.disentanglement import DisentanglementProbe
from probes.latents.rate_head import RateHeadProbe
from probes.texts.binding import BindingProbe
from probes.texts.captions import CaptionsProbe
from probes.texts.reader import ReaderProbe
from probes.texts.retrieval import RetrievalProbe
from probes.texts.zero_shot import ZeroShotProbe
from probes.views.geometry import GeometryProbe
from tests.shown import part, read


def curve(*bounds: float) -> list[dict]:
    return [
        {"K": k, "bound": bound, "low": bound - 0.125, "high": bound + 0.25, "ceiling": bound + 4}
        for k, bound in zip((16, 255), bounds, strict=True)
    ]


def of_texts(shift: float, verdict: str) -> dict:
    ways = {"image_to_text": curve(0.5, 1 + shift), "text_to_image": curve(0.75, 2 + shift)}
    known = {"temperature": 0.5 + shift, "verdict": verdict, "sweep": curve(0.5, 1.5 + shift)}
    return ways | known


CAPTIONS = {
    "critics": {"native": of_texts(1.0, "converged"), "common": of_texts(2.0, "K-limited")},
    "gap": 0.625, "own_cosine": 0.375, "images": 700, "distinct_captions": 60, "truth": 5.5,
}  # fmt: skip
RETRIEVAL = {
    "gallery": 700,
    "image_to_text": [{"k": k, "recall": k / 16, "chance": k / 64} for k in (1, 5)],
    "text_to_image": [{"k": k, "recall": k / 32, "chance": k / 48} for k in (1, 5)],
}
ZERO = {
    "top1": 0.875,
    "parts": {
        name: {
            "images": images,
            "codes": {"shape": {"value": share, "chance": 0.25}},
            "probabilities": {"shape": {"value": share + 0.0625, "chance": 0.125}},
        }
        for name, images, share in (("all", 90, 0.5), ("unseen", 30, 0.375))
    },
}
SWAPS = {
    "swaps": {
        "shapes": {"value": 0.75, "low": 0.625, "high": 0.875, "images": 70},
        "places": {"value": 0.5, "low": 0.375, "high": 0.5625, "images": 80},
    }
}
READER = {
    "top1": 0.5, "information": 1.25, "captions": 300,
    "labels": {"a": {"top1": 0.5, "information": 1.5, "best_top1": 0.75, "best_information": 1.75},
               "b": {"top1": 0.25, "information": 0.5}},
}  # fmt: skip
FILE = {
    "images": 1200, "gross": 0.75, "net": 0.6875, "bound": 0.625, "floored": 0.59375,
    "overhead_percent": 9.25, "machine": "quiet", "encode": {"million_values_a_second": 1.5},
    "decode": {"million_values_a_second": 2.5},
    "baselines": [{"name": "PNG", "each": 2.0, "mosaic": 1.375}],
}  # fmt: skip
SHOTS = {
    str(percent): {
        "images": 10 * percent + 3, "draws": 7, "linear": {"top1": 0.5 + share, "sd": 0.0625},
        "knn": {"top1": 0.25 + share, "sd": 0.03125},
    }
    for percent, share in ((1, 0.0), (10, 0.125))
} | {"seed": 9}  # fmt: skip
USABLE = {
    name: part(value, gain=part(value / 8), extrapolated=value + 1, limited=limited)
    for name, value, limited in (("linear", 1.5, 0), ("mlp", 2.5, 1), ("knn", 0.5, 0))
} | {"train_images": 1000}
RANKS = {
    "chosen": {
        rule: {"rank": rank, "test": rank / 32, "top1": rank / 64}
        for rule, rank in (("bic", 8), ("mdl", 16), ("cv", 32))
    }
}
PROVEN = {
    "confidence": 0.99, "images": 500,
    "factor": {
        name: {
            "pac_bayes": {"bound": 0.25 + more, "divergence": 31.0, "test": 0.125, "vacuous": 0,
                          "test_low": 0.0625, "test_high": 0.1875},
            "occam": {"bound": 0.5 + more, "bits": 77, "rank": 4, "test": 0.375, "vacuous": 1},
        }
        for name, more in (("a", 0.0), ("b", 0.25))
    },
}  # fmt: skip
HEAD = {
    "nothing": {"rate": part(0.125), "distortion": part(99.5)}, "train_images": 640,
    "likelihood": "logistic",
    "points": [
        {"beta": beta, "rate": part(10 / beta + 0.25), "distortion": part(80 + beta)}
        for beta in (1.0, 4.0)
    ],
}  # fmt: skip
SPACE = {"effective_rank": 5.5, "dimensions": 32, "uniformity": -2.25, "deviation": 0.875}
GEOMETRY = {
    "features": SPACE | {"lidar": 3.5, "alignment": 0.375, "spectral_decay": 1.25,
                         "cluster_learnability": 0.625, "intrinsic_dimension": 7.75},
    "codes": SPACE | {"effective_rank": 4.5},
}  # fmt: skip
ACCOUNT = {
    "nats": 693_147.0, "kbits": 1000.0, "final": 1.25, "first": 4.5, "estimator": "nelbo",
    "images": 5000, "logged": 12,
}  # fmt: skip
UNTANGLED = {
    "mig": 0.25, "sap": 0.125, "disentanglement": 0.5, "completeness": 0.625,
    "informativeness": 0.875, "factors": ["a", "b"],
}  # fmt: skip

# probe, report, numbers of its cells, its logged numbers, numbers of its sentences
CASES = [
    (CaptionsProbe(), CAPTIONS, [3.5, 0.25, 255],
     {"captions/native": 2.5, "captions/common": 3.5, "captions/gap": 0.625},
     [1.5, 2.5, 2.375, 2.75, 255, 2.0, 3.0, 6.5, 2.5, 3.5, 3.375, 3.75, 255, 3.0, 4.0, 7.5,
      700, 60, 5.5, 0.625, 0.375]),
    (RetrievalProbe(), RETRIEVAL, [],
     {"retrieval/image_to_text/R@1": 1 / 16, "retrieval/image_to_text/R@5": 5 / 16,
      "retrieval/text_to_image/R@1": 1 / 32, "retrieval/text_to_image/R@5": 5 / 32},
     [700, 1, 6.2, 5, 31.2, 1, 1.6, 700, 1, 3.1, 5, 15.6, 1, 2.1]),
    (ZeroShotProbe(), ZERO, [87.5],
     {"zero_shot/top1": 0.875, "zero_shot/all/codes/shape": 0.5,
      "zero_shot/all/probabilities/shape": 0.5625, "zero_shot/unseen/codes/shape": 0.375,
      "zero_shot/unseen/probabilities/shape": 0.4375},
     [90, 50.0, 25.0, 90, 56.2, 12.5, 30, 37.5, 25.0, 30, 43.8, 12.5]),
    (BindingProbe(), SWAPS, [], {"binding/shapes": 0.75, "binding/places": 0.5},
     [50, 75.0, 62.5, 87.5, 70, 50.0, 37.5, 56.2, 80]),
    (ReaderProbe(), READER, [50.0], {"reader/top1": 0.5, "reader/information": 1.25},
     [300, 50.0, 75.0, 1.5, 1.75, 25.0, 0.5]),
    (CompressionProbe(), FILE, [0.75],
     {"compression/gross": 0.75, "compression/net": 0.6875, "compression/bound": 0.625},
     [1200, 0.75, 0.6875, 0.625, 0.5938, 24, 9.25, 2.0, 1.375, 1.5, 2.5]),
    (LowShotProbe(), SHOTS, [50.0, 25.0, 62.5, 37.5],
     {"low_shot/1/linear": 0.5, "low_shot/1/knn": 0.25, "low_shot/10/linear": 0.625,
      "low_shot/10/knn": 0.375},
     [1, 13, 7, 9, 50.0, 6.2, 25.0, 3.1, 10, 103, 7, 9, 62.5, 6.2, 37.5, 3.1]),
    (UsableProbe(), USABLE, [1.5, 2.5, 0.5],
     {"usable/linear": 1.5, "usable/mlp": 2.5, "usable/knn": 0.5},
     [1.5, 1.25, 2.0, 1000, 0.188, 2.5, 2.25, 3.0, 1000, 0.312, 3.5, 1, 0.5, 0.25, 1.0, 1000,
      0.062]),
    (MLPProbe(), {"hidden": 256.0, "top1": 0.75, "information": 1.25}, [75.0, 1.25],
     {"mlp/top1": 0.75, "mlp/information": 1.25}, [256, 75.0, 1.25]),
    (FinetuneProbe(),
     {"images": 90, "percent": 5, "epochs": 12, "best_epoch": 3, "top1": 0.75}, [75.0],
     {"finetune/top1": 0.75}, [90, 5, 12, 3, 75.0]),
    (RankProbe(), RANKS, [8, 16, 32], {"rank/bic": 8, "rank/mdl": 16, "rank/cv": 32},
     [8, 0.25, 12.5, 16, 0.5, 25.0, 32, 1.0, 50.0]),
    (CertifiedProbe(), PROVEN, [37.5, 62.5],
     {"certified/pac_bayes": 0.375, "certified/occam": 0.625},
     [25.0, 99, 31, 500, 12.5, 6.2, 18.8, 99, 50.0, 99, 77, 4, 500, 37.5,
      50.0, 99, 31, 500, 12.5, 6.2, 18.8, 99, 75.0, 99, 77, 4, 500, 37.5]),
    (RateHeadProbe(), HEAD, None,
     {"rate_head/rate_beta1": 10.25, "rate_head/distortion_beta1": 81.0,
      "rate_head/rate_beta4": 2.75, "rate_head/distortion_beta4": 84.0},
     [640, 0.12, 99.5, 4, 2.75, 84.0, 1, 10.25, 81.0]),
    (GeometryProbe(), GEOMETRY, [],
     {f"geometry/{space}/{key}": value for space, held in GEOMETRY.items()
      for key, value in held.items()},
     [5.5, 32, 3.5, 0.375, -2.25, 0.88, 1, 1.25, 0.62, 7.75, 4.5, 32, -2.25, 0.88, 1]),
    (AccountProbe(), ACCOUNT, [1000],
     {"account/nats": 693_147.0, "account/kbits": 1000.0}, [1000, 1.25, 5000]),
    (DisentanglementProbe(), UNTANGLED, [],
     {f"disentanglement/{key}": UNTANGLED[key] for key in UNTANGLED if key != "factors"},
     [0.25, 0.125, 0.5, 0.625, 0.875]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("probe", "numbers", "cells", "logged", "said"), CASES, ids=[case[0].name for case in CASES]
)
def test_each_number_is_shown_in_its_place(probe, numbers, cells, logged, said):
    if cells is not None:
        assert read(probe.cells(numbers)) == pytest.approx(cells, abs=0.006)
        assert len(probe.cells(numbers)) == len(probe.values(numbers)) == len(probe.columns)
    for cell, value in zip(probe.cells(numbers), probe.values(numbers), strict=True):
        if not isinstance(value, str):
            assert value.value == pytest.approx(read([cell])[0], abs=0.006)
    assert probe.headline(numbers) == pytest.approx(logged)
    assert read(probe.sentences(numbers)) == pytest.approx(said, abs=0.051)


def test_the_worst_class_is_named():
    part = {"balanced": 0.5, "classes": ["a", "b", "c"], "accuracy": [0.5, 0.25, 0.75]}
    numbers = {"factor": {"kind": part | {"images": [10, 20, 30]}}}
    (line,) = ClassesProbe().sentences(numbers)
    assert read([line]) == [50.0, 25.0, 20] and "worst class is b," in line


def test_what_is_known_only_sometimes_is_said_only_then():
    vacuous = CertifiedProbe().sentences(PROVEN)
    assert ["vacuous" in line for line in vacuous[:2]] == [False, True]
    limits = [line.count("infinitely many") for line in UsableProbe().sentences(USABLE)]
    assert limits == [0, 1, 0]
    best = [row | {"best_possible": 0.96875} for row in RETRIEVAL["image_to_text"]]
    lines = RetrievalProbe().sentences(RETRIEVAL | {"image_to_text": best})
    assert [line.count("best possible 96.9") for line in lines] == [2, 0]
    unknown = CaptionsProbe().sentences(CAPTIONS | {"truth": None})
    assert "the truth" not in unknown[-1] and "the truth" in CaptionsProbe().sentences(CAPTIONS)[-1]
    exact = FILE | {"floored": FILE["bound"]}
    assert "24 bits" not in CompressionProbe().sentences(exact)[0]
    near = exact | {"at_codes": 0.625, "floored": 0.55, "net_error": 0.0055}
    line = CompressionProbe().sentences(near)[1]
    assert read([line])[:3] == pytest.approx([10.0, 25.0, 1.96], abs=0.01)


def test_curves_are_of_both_directions_of_captions():
    found = CaptionsProbe().curves(CAPTIONS)
    assert found["common critic"] == [(16, 0.5), (255, 3.5)] and len(found) == 2
    assert CaptionsProbe().values(CAPTIONS)[0][:3] == (3.5, 3.375, 3.75)
