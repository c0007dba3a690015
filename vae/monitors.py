"""A VAE's monitors on held-out images: how much information its code carries."""

from core.information.codes import codes, encoded, joined
from core.information.collapse import CollapseStatus, collapse_status
from core.method import Context, LatentModel

IMAGES = 1024  # validation images that are coded

REMEDIES = (
    "a lower price (model.rate.beta)",
    "free bits (model.rate.kind=free_bits model.rate.nats=0.2)",
    "annealing (model.rate.kind=linear or cyclical)",
)


def code_monitors(method: LatentModel, context: Context) -> dict[str, float]:
    """Active units, and min(R, leave-one-out bound) >= I(X; Z) in nats; {} if there is only one
    image.
    """
    prior = method.prior()
    batches = context.held_out("collapse", IMAGES)
    read = joined([codes(batch.q, batch.z, prior) for batch in encoded(method, batches)])
    if len(read.z) < 2:
        return {}
    found = collapse_status(read)
    return {"active_units": float(found.active_units), "information_upper": found.nats}


def collapse_warning(scores: dict[str, float], dimensions: int, remedies: tuple[str, ...]) -> str:
    """Advice if the code has collapsed; empty if it has not, or if nothing is known. `remedies`:
    what the method's config offers against it, two or more.
    """
    if "information_upper" not in scores:
        return ""
    status = CollapseStatus(scores["information_upper"], int(scores["active_units"]), dimensions)
    if not status.collapsed:
        return ""
    tried = f"{', '.join(remedies[:-1])}, or {remedies[-1]}"
    return f"{status.sentence}; the decoder ignores z; try {tried}"
