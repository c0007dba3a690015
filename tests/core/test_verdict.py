"""The words beside a number."""

from core.information.bounds import Estimate, infonce_terms
from core.information.verdict import cosine_cap, verdict

import math

import pytest
import torch
import torch.nn.functional as F


def flat(value: float) -> Estimate:
    return Estimate(value, 0.01, value - 0.02, value + 0.02)


@pytest.mark.parametrize(
    "values, images, calibration, cap, expected",
    [
        ([2.4, 2.5, 2.5, 2.5], 4096, None, math.inf, "converged"),
        ([3.5, 3.8, 4.1, 4.5], 4096, None, math.inf, "K-limited"),
        ([5.5, 6.9, 8.2, 8.25], 4096, None, math.inf, "saturated"),
        ([3.9, 5.3, 5.9, 6.6], 4096, None, math.inf, "saturated"),
        ([1.9, 1.95, 1.97, 1.98], 4096, None, 2.0, "saturated"),
        ([-1, -1, -1, -0.5], 4096, None, math.inf, "critic-limited"),
        ([2.4, 2.5, 2.5, 2.5], 4096, 6.0, math.inf, "critic-limited"),
    ],
)
def test_verdicts(values, images, calibration, cap, expected):
    sweep = [(c, flat(v)) for c, v in zip((64, 512, 1024, 4096), values, strict=True)]
    assert verdict(sweep, images, calibration, cap) == expected


def test_cosine_cap_is_what_a_perfect_code_can_reach_at_most():
    assert cosine_cap(1 / 0.5, 4096) == pytest.approx(3.99, abs=0.015)
    code = torch.eye(2, dtype=torch.float64)[torch.tensor([0, 1])] * 2 - 1
    code = F.normalize(torch.stack([code[0], -code[0]]), dim=1)
    assert infonce_terms(code, code, 3.0, [2]).mean().item() == pytest.approx(cosine_cap(3.0, 2))
