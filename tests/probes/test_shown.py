"""From a report to what a person sees: each cell, value, logged number, curve and sentence of a
probe shows its own number. All numbers of these reports are different.
"""

import pytest

from probes.labels.knn import KNNProbe
from probes.labels.linear import LinearProbe
from probes.labels.mdl import MDLProbe
from probes.latents.likelihood import AISProbe, LikelihoodProbe
from probes.latents.rate import RateProbe
from probes.views.information import UNKNOWN_COPIES, InformationProbe
from tests.shown import part, read


def critic(shift: float, verdict: str = "converged", **more: object) -> dict:
    rows = [
        {
            "K": k,
            "candidates": k + 1,
            "loss": 0.5,
            "bound": bound + shift,
            "low": bound + shift - 0.1,
        }
        | {"high": bound + shift + 0.2, "ceiling": 6 + shift + bound}
        for k, bound in ((16, 1.0), (1023, 2.0))
    ]
    known = {"temperature": 0.125 + shift, "scale": 8.0, "cap": 7 + shift, "verdict": verdict}
    return known | {"sweep": rows} | more


BETWEEN = {
    "quantity": "I(V1; V2)", "truth": 5.5, "augmentation": "crop", "copies_left_out": 0,
    "critics": {"native": critic(1.0), "common": critic(0.5, "K-limited"), "more": critic(2.0)},
}  # fmt: skip
OF_CODE = {
    "rate": part(12.25), "distortion": part(81.5), "nelbo": part(93.75),
    "lower": part(6.125), "upper": part(9.375), "marginal_kl": {"low": 2.875, "high": 6.375},
    "ceiling": 8.875, "active_units": 3, "latent_dimensions": 16, "images": 7000,
    "on_these_images": {"images": 7000, "rate": part(12.0), "information": part(6.5)},
}  # fmt: skip
TIGHTER = {
    "images": 500, "nelbo": part(93.75), "gain": part(1.625), "effective_samples": 4.75,
    "importance_weighted": part(92.125, 91.5, 92.875), "annealed": part(90.5, 89.25, 91.75),
    "accepted": 0.64,
}  # fmt: skip
CODE = {
    "nats": 693.0, "kbits": 1.375, "sd": 55.0, "uniform": 900.0, "alone": 800.0, "sdl": 400.0,
    "variational": 750.0, "images": 1200, "tolerance": 0.125, "compression": 1.625,
}  # fmt: skip
CODE["factor"] = {
    "shape": {
        "nats": 400.0, "kbits": 0.625, "sd": 20.0, "uniform": 500.0, "alone": 450.0, "sdl": 200.0,
        "variational": 425.0, "compression": 1.25, "reached": 0, "curve": [[2, 1.5], [4, 1.25]],
    },
    "colour": {
        "nats": 293.0, "kbits": 0.75, "sd": 35.0, "uniform": 400.0, "alone": 350.0, "sdl": 100.0,
        "variational": 325.0, "compression": 2.5, "reached": 1, "curve": [[2, 1.0], [4, 0.5]],
    },
}  # fmt: skip


def test_the_bound_of_the_headline_critic_is_shown():
    probe = InformationProbe()
    assert read(probe.cells(BETWEEN)) == [2.5, 0.2, 1023] and probe.cells(BETWEEN)[1] == "K-limited"
    assert "common" in probe.cells(BETWEEN)[0]
    value, verdict = probe.values(BETWEEN)
    assert value[:3] == pytest.approx((2.5, 2.4, 2.7)) and verdict == "K-limited"
    logged = {"infonce/native": 3.0, "infonce/common": 2.5, "infonce/more": 4.0}
    assert probe.headline(BETWEEN) == logged
    assert probe.curves(BETWEEN)["native critic"] == [(16, 2.0), (1023, 3.0)]
    (bound,) = probe.bounds(BETWEEN)
    assert (bound.value, bound.truth, bound.views, bound.verdict) == (2.5, 5.5, "crop", "K-limited")
    assert (bound.low, bound.high, bound.side) == pytest.approx((2.4, 2.7, "lower"))
    alone = BETWEEN | {"critics": {"other": critic(2.0), "native": critic(1.0)}}
    assert "native" in probe.cells(alone)[0]


def test_the_sentence_of_a_critic_has_its_numbers_and_what_limits_it():
    probe = InformationProbe()
    proof = {"low": 1.125, "point": 1.5, "confidence": 0.99, "candidates": 64, "blocks": 31}
    gain = {"gain": 0.375, "low": 0.25, "high": 0.5, "extrapolated": 3.875}
    limited = critic(1.0, "data-limited", doubling=gain, certificate=proof)
    limited["sweep"][-1]["best_possible"] = 4.625
    numbers = BETWEEN | {"critics": {"common": limited}, "copies_left_out": None}
    line, copies = probe.sentences(numbers)
    assert copies == UNKNOWN_COPIES
    assert len(probe.sentences(BETWEEN)) == 3
    found = [1.125, 3.0, 2.9, 3.2, 1023, 9.0, 8.0, 4.625]  # the cap is 8, the ceiling 9
    assert read([line])[: len(found)] == found
    rest = read([line.partition("data-limited")[2]])
    assert rest == pytest.approx([0.375, 1, 3.875, 1.125, 99, 31, 64], abs=0.006)  # 1 of 1/n
    gain["low"] = 0.0  # the gain may be chance
    again = probe.sentences(numbers)[0].partition("data-limited")[2]
    assert "up to 0.50 nats" in again and "3.88" not in again
    limited["verdict"] = "converged"
    assert "half of the training pairs" not in probe.sentences(numbers)[0]


@pytest.mark.parametrize(("upper", "top"), [(9.375, 9.375), (13.5, 12.25)])
def test_the_bounds_of_a_code_are_shown_with_the_smaller_upper_one(upper, top):
    probe, numbers = RateProbe(), OF_CODE | {"upper": part(upper)}
    assert read(probe.cells(numbers)) == pytest.approx([6.12, top, 12.25, 93.8], abs=0.01)
    within, r, total = probe.values(numbers)
    assert (within.value, within.low, within.high) == (None, 6.125, top)
    assert r[:3] == (12.25, 12.0, 12.75) and total[:4] == (93.75, 93.5, 94.25, 1)
    logged = {
        "rate": 12.25, "distortion": 81.5, "nelbo": 93.75, "lower": 6.125, "upper": upper,
        "active_units": 3, "on_these_images/rate": 12.0, "on_these_images/information": 6.5,
    }  # fmt: skip
    assert probe.headline(numbers) == logged
    found = read([line.replace("D + R", "") for line in probe.sentences(numbers)])
    assert found[:3] == [12.25, 81.5, 93.75]
    inside = [6.125, top, upper, 12.25, 8.88, 2.875, 6.375, 3, 16]
    assert found[3:] == pytest.approx(inside, abs=0.006)
    bounds = {bound.name: bound for bound in probe.bounds(numbers)}
    assert [bound.side for bound in bounds.values()] == ["lower", "upper", "upper"]
    assert [bound.value for bound in bounds.values()] == [6.125, upper, 12.25]
    assert [bound.ceiling for bound in bounds.values()] == [8.875, None, None]


@pytest.mark.parametrize(("information", "full"), [(6.5, False), (8.0, True)])
def test_the_parts_of_a_rate_are_those_of_all_images_and_of_these(information, full):
    """If I is within a nat of log n, the line says so."""
    these = {"images": 7000, "rate": part(12.0), "information": part(information)}
    these |= {"total_correlation": part(1.25), "dimension_wise_kl": part(4.375)}
    more = {"total_correlation": {"low": 0.5, "high": 1.75}, "on_these_images": these}
    more["dimension_wise_kl"] = {"low": 3.5, "high": 5.25}
    line = RateProbe().sentences(OF_CODE | more)[3]
    of_all = [0.5, 1.75, 3.5, 5.25]
    assert read([line]) == [*of_all, 7000, 12.0, information, 1.25, 4.375]
    assert ("log n" in line) == full
    collapsed = OF_CODE | {"sentence": "the code has collapsed"}
    assert RateProbe().sentences(collapsed)[-1] == "the code has collapsed"
    assert len(RateProbe().sentences(OF_CODE)) == 3


def test_without_a_distortion_there_is_no_sum():
    probe = RateProbe()
    numbers = {key: value for key, value in OF_CODE.items() if key not in ("distortion", "nelbo")}
    assert probe.cells(numbers)[2] == "–" == probe.values(numbers)[2]
    assert "nelbo" not in probe.headline(numbers) and "not known" in probe.sentences(numbers)[0]


@pytest.mark.parametrize(("probe", "ends", "last"), [
    (LikelihoodProbe(), (92.12, 91.5, 92.88), 4.8), (AISProbe(), (90.5, 89.25, 91.75), 64.0),
])  # fmt: skip
def test_a_tighter_bound_stands_beside_the_elbo(probe, ends, last):
    (line,) = probe.sentences(TIGHTER)
    assert read([line]) == pytest.approx([93.75, *ends, 500, 1.62, last], abs=0.006)
    name = {"likelihood": "importance_weighted", "ais": "annealed"}[probe.name]
    assert probe.headline(TIGHTER) == {
        f"{probe.name}/nelbo": 93.75, f"{probe.name}/{name}": TIGHTER[name]["value"],
    }  # fmt: skip


def test_accuracies_are_shares_of_the_right_preset():
    knn = {"knn200": {"top1": 0.75, "k": 200.0}, "knn20": {"top1": 0.5, "k": 20.0}}
    probe = KNNProbe()
    assert read(probe.cells(knn)) == [75.0] == [value.value for value in probe.values(knn)]
    assert probe.headline(knn) == {"knn200": 0.75, "knn20": 0.5}
    assert read(probe.sentences(knn)) == [75.0, 200, 50.0, 20]
    numbers = {"top1": 0.875, "information": 1.25, "confusion": {}, "top1/a": 0.9}
    linear = LinearProbe()
    assert read(linear.cells(numbers)) == [87.5, 1.25]
    assert [(value.value, value.digits) for value in linear.values(numbers)] == [
        (87.5, 1),
        (1.25, 2),
    ]
    logged = {"linear/top1": 0.875, "linear/information": 1.25, "linear/top1/a": 0.9}
    assert linear.headline(numbers) == logged


def test_a_description_length_is_shown_for_each_factor():
    probe = MDLProbe()
    assert read(probe.cells(CODE)) == pytest.approx([1.38, 1.62], abs=0.006)
    assert [value.value for value in probe.values(CODE)] == [1.375, 1.625]
    assert probe.headline(CODE) == {
        "mdl/nats": 693.0, "mdl/kbits": 1.375, "mdl/compression": 1.625, "mdl/sdl": 400.0,
    }  # fmt: skip
    assert list(probe.curves(CODE).values()) == [[(2, 1.5), (4, 1.25)], [(2, 1.0), (4, 0.5)]]
    for (factor, held), line in zip(CODE["factor"].items(), probe.sentences(CODE), strict=True):
        kbit = {key: held[key] / 693.147 for key in ("sd", "alone", "variational", "sdl")}
        expected = [held["kbits"], kbit["sd"], 1200, held["compression"], kbit["alone"]]
        expected += [kbit["variational"], 0.125, kbit["sdl"]]
        assert read([line]) == pytest.approx(expected, abs=0.006) and factor in line
        assert ("at least" in line) == (held["reached"] == 0)
    one = {key: value for key, value in CODE.items() if key != "compression"}
    assert probe.cells(one)[1] == "–" == probe.values(one)[1]


def test_every_column_has_a_claim_and_a_cell():
    for probe, numbers in (
        (InformationProbe(), BETWEEN), (RateProbe(), OF_CODE), (MDLProbe(), CODE),
    ):  # fmt: skip
        shown = probe.cells(numbers), probe.values(numbers)
        assert [len(cells) for cells in shown] == [len(probe.columns)] * 2
        assert not probe.claims or len(probe.claims) == len(probe.columns)
