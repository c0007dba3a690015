"""The estimators of `probes.estimate`, and whether each value is a bound. This file imports
nothing, so a command can list the estimators fast.
"""

LOWER, BIASED, NONE = "lower bound", "lower bound, biased up on finite samples", "no bound"
ESTIMATE = "estimate, no bound"
SIDES = {
    "infonce": LOWER,
    "alpha": LOWER,
    "nwj": LOWER,
    "js": LOWER,
    "dv": BIASED,
    "smile": NONE,
    "anchor": ESTIMATE,
    "ksg": ESTIMATE,
}
CRITICS = ("auto", "mlp", "conv")
DEFAULT = ("infonce", "alpha", "nwj", "ksg")
