"""The probes, in the order of a report. A new probe is one file and one line here."""

from core.errors import UserError, nearest

PROBES = {
    "linear": "probes.labels.linear.LinearProbe",
    "knn": "probes.labels.knn.KNNProbe",
    "information": "probes.views.information.InformationProbe",
    "captions": "probes.texts.captions.CaptionsProbe",
    "retrieval": "probes.texts.retrieval.RetrievalProbe",
    "zero_shot": "probes.texts.zero_shot.ZeroShotProbe",
    "binding": "probes.texts.binding.BindingProbe",
    "reader": "probes.texts.reader.ReaderProbe",
    "geometry": "probes.views.geometry.GeometryProbe",
    "rate": "probes.latents.rate.RateProbe",
    "disentanglement": "probes.latents.disentanglement.DisentanglementProbe",
    "low_shot": "probes.labels.low_shot.LowShotProbe",
    "mlp": "probes.labels.mlp.MLPProbe",
    "mdl": "probes.labels.mdl.MDLProbe",
    "usable": "probes.labels.usable.UsableProbe",
    "rank": "probes.labels.rank.RankProbe",
    "certified": "probes.labels.certified.CertifiedProbe",
    "account": "probes.account.AccountProbe",
    "finetune": "probes.labels.finetune.FinetuneProbe",
    "classes": "probes.labels.classes.ClassesProbe",
    "likelihood": "probes.latents.likelihood.LikelihoodProbe",
    "ais": "probes.latents.likelihood.AISProbe",
    "compression": "probes.latents.compression.CompressionProbe",
    "rate_head": "probes.latents.rate_head.RateHeadProbe",
}
# measured only if they are named: further evaluations, and those that take a minute or more
ON_REQUEST = (
    *("low_shot", "mlp", "mdl", "usable", "rank", "certified", "account", "finetune", "classes"),
    *("likelihood", "ais", "compression", "rate_head"),
)
DEFAULT = tuple(name for name in PROBES if name not in ON_REQUEST)


def names_of(words: str) -> list[str]:
    """The probes that `--probes` names; `UserError` for an impossible name."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        path = name.split(".")
        if name not in PROBES and not (len(path) > 1 and all(map(str.isidentifier, path))):
            raise UserError(f"--probes: there is no '{name}'{nearest(name, PROBES)}")
    return names
