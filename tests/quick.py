"""A script with small constants of the probes, for tests in which the numbers do not matter."""

FEW = {
    "probes.latents.rate_head": {"NOTHING": (3, 1e-2), "FIRST": (3, 1e-2), "NEXT": (3, 1e-2)},
    "probes.samples.panel": {"LEAST_STEPS": 40, "MOST_STEPS": 40},
    "probes.samples.conv": {"LEAST_STEPS": 20, "MOST_EPOCHS": 4},
    "probes.views.critic": {"CYCLES": (20, 20)},
    "probes.views.information": {"TRAIN_PAIRS": 256},
    "probes.texts.captions": {"TRAIN_PAIRS": 256},
}
# The code of a process: its first word is the script, and the others are the script's words.
QUICK = f"""
import importlib, runpy, sys
for module, constants in {FEW}.items():
    for name, few in constants.items():
        assert type(getattr(importlib.import_module(module), name)) is type(few)
        setattr(sys.modules[module], name, few)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
