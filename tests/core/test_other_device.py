"""Probes work on a device whose tensors can not be mixed with those of the CPU, as on a GPU."""

import subprocess
import sys

import pytest
from torch.utils import backend_registration

from tests.front_door import ROOT


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are written in Python",
)
def test_probes_find_the_same_on_another_device():
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    words += ["-o", "testpaths=", "tests/on_other_device.py"]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.startswith("......"), answer.stdout  # skipped ones are no points
