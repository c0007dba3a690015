"""The extra peak memory of one side of one contest, in a process of its own: prints bytes. Called
by `contest.peak_elsewhere`.
"""

import importlib
import sys

import torch

from scripts.benches.contest import peak

if __name__ == "__main__":
    section, name, side, device = sys.argv[1:]
    contests = importlib.import_module(f"scripts.benches.{section}").contests(torch.device(device))
    contest = next(contest for contest in contests if contest.name == name)
    print(peak(getattr(contest, side), torch.device(device)))
