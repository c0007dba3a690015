"""A file that one processor wrote is decoded on another: libraries are told to use fewer kinds of
instructions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vae import kept

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
SSE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",  # only processors of Intel follow it,
    "MKL_CBWR": "COMPATIBLE",  # others follow this
}


def numpy_without(*starts: str) -> dict[str, str]:
    """The variable that makes numpy ignore what this processor has of such instructions."""
    core = np._core._multiarray_umath
    had = [x for x in core.__cpu_dispatch__ if core.__cpu_features__[x] and x.startswith(starts)]
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(had)} if had else {}


def elsewhere(variables: dict[str, str], *words: str) -> dict[str, object]:
    """What a fresh process with these variables finds."""
    command = [sys.executable, "-m", "tests.vae.kept", *words]
    env = {**os.environ, **variables, "OMP_NUM_THREADS": "2"}
    told = subprocess.run(
        command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "variables, words, capability",
    [
        (AVX2 | numpy_without("AVX512", "X86_V4"), ["without-onednn"], ("AVX2", "DEFAULT")),
        (SSE | numpy_without("A", "F", "X"), [], ("DEFAULT",)),
    ],
    ids=["avx2", "sse"],
)
def test_the_kept_file_decodes_with_other_instructions_and_is_coded_the_same(
    variables, words, capability
):
    """The file was made with AVX-512 and with oneDNN."""
    found = elsewhere(variables, *words)
    assert found["images"] == kept.IMAGES and found["same_file"]
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert found["capability"] in capability  # torch follows
        if capability == ("DEFAULT",):  # the numbers that are rounded do differ in their last bits
            here = kept.decoded_here()
            assert found["moments"] != here["moments"] and found["product"] != here["product"]
