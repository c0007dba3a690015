"""The estimators of `probes.estimate`, and what each value is. It imports nothing, so that a
command can list them fast.
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
