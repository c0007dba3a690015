"""Run a script with small constants of the probes and of a study, for tests in which the numbers
do not matter.
"""

STUDY = {"simclr": tuple({"epochs": 1, "temperature": t} for t in (0.1, 0.2, 0.4))}
FEW = {
    "probes.latents.rate_head": {"NOTHING": (3, 1e-2), "FIRST": (3, 1e-2), "NEXT": (3, 1e-2)},
    "probes.samples.panel": {"LEAST_STEPS": 40, "MOST_STEPS": 40},
    "probes.samples.conv": {"LEAST_STEPS": 20, "MOST_EPOCHS": 4},
    "probes.views.critic": {"CYCLES": (20, 20)},
    "probes.views.information": {"TRAIN_PAIRS": 256},
    "probes.texts.captions": {"TRAIN_PAIRS": 256},
    "probes.labels.linear": {"STRENGTHS": (1e-2, 1e-1), "FEW": 8},
    "probes.report.selection": {"LEAST": 3},
    "scripts.selection_grid": {
        "SETS": ("sprites",),
        "SIZES": {"train": 256, "validation": 256, "test": 256},  # an eighth with --quick
        "COMMON": ("wandb=disabled", "optim.batch_size=32"),
        "GRID": {"sprites": STUDY},
        "QUICK": STUDY,
        "PROBES": "linear,knn",
    },
}
# Code for a new process: its first argument is the script, the others are those of the script.
QUICK = f"""
import importlib, runpy, sys
for module, constants in {FEW}.items():
    for name, few in constants.items():
        assert type(getattr(importlib.import_module(module), name)) is type(few)
        setattr(sys.modules[module], name, few)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
