"""The probes, in the order of a report. A new probe is one file and one line here."""

PROBES = {
    "linear": "probes.labels.linear.LinearProbe",
    "knn": "probes.labels.knn.KNNProbe",
    "information": "probes.views.information.InformationProbe",
    "geometry": "probes.views.geometry.GeometryProbe",
    "rate": "probes.latents.rate.RateProbe",
    "disentanglement": "probes.latents.disentanglement.DisentanglementProbe",
    "likelihood": "probes.latents.likelihood.LikelihoodProbe",
    "ais": "probes.latents.likelihood.AISProbe",
    "rate_head": "probes.latents.rate_head.RateHeadProbe",
}
ON_REQUEST = ("likelihood", "ais", "rate_head")  # a minute or two a checkpoint
DEFAULT = tuple(name for name in PROBES if name not in ON_REQUEST)
