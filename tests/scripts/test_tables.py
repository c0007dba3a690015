"""Tables that commands print: a value with half of its interval, from numbers that are known."""

import pytest

from scripts import collapse, information


def entry(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


@pytest.mark.parametrize(("upper", "top"), [(4.0, "3.50"), (3.0, "3.00")])
def test_a_row_of_a_collapse_has_half_intervals_and_the_lower_of_two_limits(upper, top):
    rate = {
        "rate": entry(3.5, 0.25),
        "distortion": entry(80.0, 1.5),
        "nelbo": entry(83.5, 1.25),
        "lower": entry(2.0, 0.1),
        "upper": entry(upper, 0.1),
        "active_units": 3,
        "latent_dimensions": 8,
    }
    made = collapse.table({"vae": rate})
    cells = [next(iter(column.cells)) for column in made.columns]
    known = ["VAE", "3.50 ± 0.25", "80.00 ± 1.50", "83.50 ± 1.25", f"2.00 … {top}", "3 of 8"]
    assert list(map(str, cells)) == known


def test_the_table_of_pairs_has_nats_bits_and_the_whole_interval():
    found = {
        "estimators": {
            "alpha": entry(0.6931471805599453, 0.1)
            | {"alpha": 0.01, "candidates": 512, "ceiling": 6.24, "side": "lower bound",
               "verdict": "converged", "error": 0.05},
        },
        "dimensions": (1, 2),
        "doubling": entry(0.01, 0.02) | {"gain": 0.01, "extrapolated": 0.7},
        "pairs": 1000, "split": "held out", "calibration": 0.7, "seed": 0, "quantity": "I(X; Y)",
    }  # fmt: skip
    made = information.table(found, "a.npz", 1.0)
    cells = [str(next(iter(column.cells))) for column in made.columns]
    assert cells[:6] == ["alpha (0.01)", "0.693", "0.593 … 0.793", "1.00", "512", "6.24"]
    assert cells[6:] == ["lower bound", "converged"]
