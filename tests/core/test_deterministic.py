"""`trainer.deterministic`: its settings, its refusals in one line, and the replacement of an
operator that has no deterministic form on a GPU.
"""

import os
from unittest import mock

import pytest
import torch

from core.errors import UserError
from core.networks.discretized import by_product, cumulated
from core.run import config
from core.run.explain import in_one_line
from core.run.setup import be_deterministic, start_fabric


@pytest.fixture
def restored():
    """Restores torch's settings and the environment after a test."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    filled = torch.utils.deterministic.fill_uninitialized_memory
    with mock.patch.dict(os.environ):
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
    torch.utils.deterministic.fill_uninitialized_memory = filled


def run_of(**trainer: object) -> config.RunConfig:
    made = {
        "method": "contrastive.simclr.SimCLR",
        "model": {"backbone": "small"},
        "folder": "none",
        "trainer": {"accelerator": "cpu", **trainer},
    }
    return config.from_dict(made, "test")


def test_the_option_is_set_before_the_device_starts(restored):
    start_fabric(run_of())
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    start_fabric(run_of(deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_the_users_setting_for_cublas_is_kept(restored):
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    be_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operator_without_a_deterministic_form_is_named_in_one_line(restored):
    """torch's own check, called on a CPU like every such operator calls it on a GPU."""
    be_deterministic()
    with (
        pytest.raises(UserError, match=r"^trainer\.deterministic: a training step .*put_") as error,
        in_one_line(run_of(), (3, 8, 8), 1, "a training step"),
    ):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    assert "\n" not in str(error.value) and "set it to false" in str(error.value)


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-6), (torch.float64, 1e-15)])
def test_cumulative_sums_by_a_product_equal_cumsum(dtype, limit):
    x = torch.rand(4, 5, 256, dtype=dtype).softmax(-1)
    torch.testing.assert_close(by_product(x), x.cumsum(-1), rtol=0, atol=limit)
    assert torch.equal(cumulated(x), x.cumsum(-1))
