"""Prints the peak memory of one side of a contest, in bytes; `contest.peak_elsewhere` calls it."""

import importlib
import sys

import torch

from scripts.benches.contest import peak

if __name__ == "__main__":
    section, name, side, device = sys.argv[1:]
    contests = importlib.import_module(f"scripts.benches.{section}").contests(torch.device(device))
    contest = next(contest for contest in contests if contest.name == name)
    print(peak(getattr(contest, side), torch.device(device)))
