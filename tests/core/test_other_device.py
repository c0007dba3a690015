"""Probes work on a device whose tensors can not be mixed with those of the CPU, as on a GPU."""

import subprocess
import sys

from tests.front_door import ROOT


def test_probes_find_the_same_on_another_device():
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    words += ["-o", "testpaths=", "tests/on_other_device.py"]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.startswith("......"), answer.stdout  # skipped ones are no points
