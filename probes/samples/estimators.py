"""The estimators of `probes.estimate`, and what each value is. It imports nothing, so that a
command can list them fast.
"""

LOWER, BIASED, NONE = "lower bound", "lower bound, biased up on finite samples", "no bound"
SIDES = {
    "infonce": LOWER,
    "alpha": LOWER,
    "nwj": LOWER,
    "js": LOWER,
    "dv": BIASED,
    "smile": NONE,
    "ksg": NONE,
}
DEFAULT = ("infonce", "alpha", "nwj", "ksg")
