"""Sentences of the page for numbers at a threshold, and what the page leaves out."""

import math
import re

import numpy as np
import pytest
from PIL import Image

from core.information.bounds import Estimate
from core.information.verdict import verdict
from probes.probe import Bound, Entry, Probe
from probes.registry import PROBES
from probes.report import groups, store
from probes.report.page import bound_charts, build, content, gallery, lead, rate_charts, vega
from probes.report.page.bound_charts import VERDICTS, interval_word, said_of_information
from probes.session import load_probes
from tests.reports import information, rate, written

KNOWN = load_probes(list(PROBES))


def grouped(*runs):
    """The groups of reports, as the command makes them."""
    paths = [run / "probe/probe.json" for run in runs]
    return groups.grouped([store.placed(store.load(path), path) for path in paths], KNOWN)


@pytest.mark.parametrize("upper, most", [(9.0, "8.00"), (7.5, "7.50")])
def test_a_code_carries_at_most_the_lower_one_of_two_upper_bounds(upper, most):
    numbers = rate(8.0)
    numbers["upper"]["value"] = upper
    assert f"at least 6.00 and at most {most} nats" in rate_charts.said_of_rate(numbers)[0]


@pytest.mark.parametrize("below, near", [(0.04, True), (0.06, False), (-0.04, True)])
def test_a_bound_at_its_ceiling_is_said_to_be_there(below, near):
    numbers = rate(8.0) | {"ceiling": 6.0 + below}
    said = [line for line in rate_charts.said_of_rate(numbers) if "most that it can show" in line]
    assert bool(said) == near


def test_the_ceiling_names_the_number_of_images_of_the_bound():
    """Of many images, only some are used for the bounds on I(X; Z)."""
    numbers = rate(20.0) | {"ceiling": math.log(16_384), "images": 50_000}
    numbers["lower"]["value"] = math.log(16_384) - 0.01
    assert "log n = log 16,384, the most" in " ".join(rate_charts.said_of_rate(numbers))


@pytest.mark.parametrize(
    "truth, said",
    [
        (4.0, "The bound misses 0.143 nats of it."),  # the bound is 3.857 ± 0.1
        (3.8, "The bound is above it, but within its interval."),
        (3.7, "The bound is above it by more than its interval."),
    ],
)
def test_a_bound_is_compared_with_the_truth_and_its_interval(truth, said):
    numbers = information(0.286, truth)
    lines = said_of_information(numbers, "common", numbers["critics"]["common"])
    assert f"The true information is known: {truth:.3f} nats. {said}" in " ".join(lines)


@pytest.mark.parametrize("value", [0.5, 2.0, 5.0, 9.0])
def test_what_converged_promises_holds_for_every_value(value):
    """The text names the most that twice as many negatives added to any converged value."""
    found = re.search(r"less than ([\d.]+) nats, or less than ([\d.]+) %", VERDICTS["converged"])
    nats, share = (float(number) for number in found.groups())
    steps = [step for step in np.linspace(0, 0.5, 501) if _word(value, step) == "converged"]
    most = max(nats, share / 100 * value)
    assert 0.8 * most < max(steps) < most


def _word(value, step):
    means = {2**14: value - step, 2**15: value}
    sweep = [(c, Estimate(mean, 0.01, mean - 0.02, mean + 0.02)) for c, mean in means.items()]
    return verdict(sweep, 2**15)


@pytest.mark.parametrize("values, kind", [((1, 8), "log"), ((1, 7.9), None), ((0, 800), None)])
def test_an_axis_is_logarithmic_from_a_factor_of_8_on(values, kind):
    assert vega.axis(values)["scale"].get("type") == kind


def test_of_several_upper_bounds_the_smallest_is_said():
    def bound(side, name, value):
        return Bound("I(X; Z)", side, name, value, value - 0.1, value + 0.1)

    entry = Entry("run", "#000000", "o", {}, ({},), 0, "sprites")
    held = [bound("upper", "rate R", 12.0), bound("upper", "mixture", 9.0)]
    said = lead.compared([(entry, [bound("lower", "InfoNCE", 2.0), *held])])
    assert "at least 2.00 and at most 9.00 nats (mixture)" in said[0]


def test_the_same_picture_is_shown_once_with_all_its_checkpoints(tmp_path):
    runs = []
    for number in range(3):
        run = written(tmp_path / f"r{number}", key=f"{number}", pictures={"linear": ["p.png"]})
        grey = np.full((8, 8), 9 if number < 2 else 200, np.uint8)
        Image.fromarray(grey).save(run / "probe/p.png")
        runs.append(run)
    ((shown),) = gallery.galleries(grouped(*runs), KNOWN)
    assert [picture.labels for picture in shown.pictures] == [["r0", "r1"], ["r2"]]
    assert [picture.places for picture in shown.pictures] == [[0, 1], [2]]


def test_pictures_of_several_rates_go_from_the_largest_rate_to_the_least(tmp_path):
    runs = []
    for number, r in enumerate((3.0, 9.0, 6.0)):
        more = {"rate": rate(r), "pictures": {"rate": ["traversals.png"]}}
        run = written(tmp_path / f"r{number}", key=f"{number}", method="vae.beta.BetaVAE", **more)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(run / "probe/traversals.png")
        runs.append(run)
    (shown,) = gallery.galleries(grouped(*runs), KNOWN)
    assert [picture.rate for picture in shown.pictures] == [9.0, 6.0, 3.0] and shown.slides


def test_a_signature_of_this_machine_is_no_part_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_bundle", lambda: "window.vegaEmbed=null")
    made = grouped(written(tmp_path / "a", signature="of-this-machine"))
    assert made[0].reports[0]["signature"] == "of-this-machine"
    text = build.html(made, KNOWN, explain=False)
    assert "of-this-machine" not in text and '"digest"' in text


@pytest.mark.parametrize(("ideal", "said"), [(1.8, True), (1.2, False), (None, False)])
def test_an_ideal_critic_below_the_bound_is_no_reason_for_a_loss(ideal, said):
    """Its value is computed from draws, so chance can put it below the bound."""
    last = {"bound": 1.5, "low": 1.4, "high": 1.6} | ({"best_possible": ideal} if ideal else {})
    text = bound_charts._said_of_truth(2.0, last)
    assert "misses 0.500 nats" in text and ("The ideal critic reaches" in text) == said
    assert not said or "0.300 nats below that" in text


def test_a_spread_over_seeds_is_not_called_an_interval():
    runs = [information(error) for error in (0.2, 0.3)]
    numbers = groups.mean(runs)
    said = said_of_information(numbers, "common", numbers["critics"]["common"])[0]
    assert "95 %" not in said and "mean ± standard deviation over seeds" in said
    single = said_of_information(runs[0], "common", runs[0]["critics"]["common"])[0]
    assert "95 % interval" in single
    assert interval_word([1, 1]) == "95 % interval"
    assert interval_word([1, 3]).startswith("95 % interval (for several seeds")


@pytest.mark.parametrize("seeds, interval", [(1, True), (2, False)])
def test_the_distance_of_two_groups_is_compared_with_what_it_is(seeds, interval):
    held = []
    for place, value in enumerate((5.0, 4.0)):
        entry = Entry(f"run{place}", "black", "o", {}, [{}] * seeds, place, "sprites")
        bound = Bound("I(V1; V2)", "lower", "InfoNCE", value, value - 0.1, value + 0.1)
        held.append((entry, [bound]))
    said = " ".join(lead.compared(held))
    assert ("95 %" in said) == interval and ("spread" in said) != interval
    assert ",," not in said


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_text_of_a_figure_of_bounds_has_one_mark_at_the_end_of_a_sentence(seeds):
    runs = tuple(information(0.2) for _ in range(seeds))
    about = bound_charts.sweep([Entry("run", "black", "o", runs[0], runs)], ["common"]).about
    assert re.search(r"with its [^.,]+\. No critic", about)


def test_commands_of_a_page_name_probes_of_ones_own_and_whom_to_trust():
    own = type("Spectrum", (Probe,), {"name": "spectrum", "__module__": "mine.parts"})()
    report = {"checkpoint": "runs/a/last.ckpt", "method": "mine.barlow.Barlow", "data": "sprites"}
    report |= {"seed": 3, "linear": {}, "spectrum": {}, "forgotten": {}}
    report["options"] = {"spectrum": {"ranks": 5}, "forgotten": {"x": 1}}
    assert content.commands(report, {"linear": PROBES["linear"], "spectrum": own}) == [
        "twobounds probe runs/a/last.ckpt --trust mine --probes linear,mine.parts.Spectrum"
        " --seed 3 spectrum.ranks=5"
    ]
