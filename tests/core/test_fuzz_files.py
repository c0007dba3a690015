"""Any checkpoint, npz or folder of images is read, or refused in one line. There is no traceback
and no crash, no code of the file is run, and it takes at most 5 s of CPU time and 1 GiB.

TWOBOUNDS_FUZZ=2000 reads 2,000 checkpoints, and 500 npz files and folders.
"""

import collections
import json
import os

import pytest

from tests.front_door import ROOT, run_code

COUNT = int(os.environ.get("TWOBOUNDS_FUZZ", "60"))
CANARY = """
import pathlib
pathlib.Path("PWNED").touch()
"""
READ = """
warnings.simplefilter("ignore")
from pathlib import Path
from tests.hostile import main
kind, first, count, folder = sys.argv[1:]
main(kind, int(first), int(count), Path(folder))
"""


@pytest.mark.parametrize("kind", ["checkpoints", "npz", "folders"])
def test_a_file_is_read_or_refused_and_runs_nothing(tmp_path, kind):
    count = COUNT if kind == "checkpoints" else max(40, COUNT // 4)
    (tmp_path / "evil_canary.py").write_text(CANARY)
    found = []
    first = 0
    code = f"import sys, warnings; sys.path[:0] = {[str(ROOT), str(tmp_path)]!r}\n" + READ
    # a separate process for some hundreds of files, because a crash would end it
    while first < count:
        batch = min(500, count - first)
        done = run_code(code, kind, first, batch, tmp_path)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, (done.returncode, lines[-1], done.stderr[-2000:])
        found += [line for line in lines if "outcome" in line]
        first += batch
    told = collections.Counter(case["outcome"] for case in found)
    print(kind, dict(told))
    fine = {"refused", "taken", "resumed", "loaded", "loaded opened", "loaded resumed"}
    wrong = [case for case in found if case["outcome"] not in fine | {"loaded opened resumed"}]
    assert not wrong, wrong[:5]
    # a large, undamaged picture is read, and may need more time and memory
    bounded = [case for case in found if kind != "folders" or case["outcome"] == "refused"]
    slow = [case for case in bounded if case["seconds"] > 5 or case["MiB"] > 1024]
    assert not slow, slow[:5]
    assert len(found) == count and told["refused"] > count / 4, told
    assert not list(tmp_path.rglob("PWNED*")), "code from a file was run"
    assert told["taken"] + told["loaded opened resumed"] > 0, "the fuzzer sees good files, too"
