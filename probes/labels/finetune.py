"""Fine-tuning: the encoder and a linear classifier are trained on labels together.

n = images, D = feature dimensions, Y = classes of all label columns together.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.console import steps_left
from core.data.source import Source, eval_sampler, train_sampler
from core.errors import Unmeasurable
from core.frozen import Frozen
from core.method import Method
from core.run.optim import warmup_cosine
from probes.labels.low_shot import balanced
from probes.probe import Found, Numbers, Probe, Value, without_labels

BATCH, DECAY = 128, 1e-4
HEAD_RATE, ENCODER_RATE = 1e-3, 3e-4  # learning rates of AdamW
WARMUP = 0.05  # of all steps


class Classifier(nn.Module):
    """A copy of a method's encoder with one linear layer for all label columns."""

    def __init__(self, method: Method, dimensions: int, sizes: list[int]):
        super().__init__()
        self.method = copy.deepcopy(method).requires_grad_(True)
        self.head, self.sizes = nn.Linear(dimensions, sum(sizes)), sizes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of each label column."""
        return self.head(self.method.embed(x).float()).split(self.sizes, 1)


def finetuned(frozen: Frozen, epochs: int, percent: int) -> Numbers:
    """Top-1 on test after fine-tuning on `percent` % of the labels of train (below 100 %:
    equally many of each class).

    Views are augmented as in the training of the encoder. The learning rate rises during the first
    5 % of the steps and then follows half a cosine. The epoch is chosen on val; test is read once.
    The frozen encoder does not change. Raises `Unmeasurable` for fewer than two labelled images
    and for a loss that is not finite.
    """
    source, val = frozen.source("train", augmented=True), frozen.source("val")
    sizes = list(source.factors.values())
    rows = _labelled(frozen, percent)
    if len(rows) < 2:
        few = f"{percent} % of the labels are {len(rows)}"
        raise Unmeasurable(f"finetune: needs 2 labelled images, but {few}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(frozen.seed)
        dimensions = frozen.features("val").x.shape[1]
        model = Classifier(frozen.method, dimensions, sizes).to(frozen.device)
        best, kept, at = -1.0, model.state_dict(), 0
        for epoch in _trained(model, source, rows, frozen, epochs):
            score = sum(_top1(model, val, frozen)) / len(sizes)
            if score > best:
                best, kept, at = score, copy.deepcopy(model.state_dict()), epoch
    model.load_state_dict(kept)
    found = _top1(model, frozen.source("test"), frozen)
    named = {f"top1/{name}": top1 for name, top1 in zip(source.factors, found, strict=True)}
    numbers: Numbers = {"top1": sum(found) / len(found), **named, "images": len(rows)}
    return numbers | {"epochs": epochs, "best_epoch": at, "percent": percent}


def _labelled(frozen: Frozen, percent: int) -> Tensor:
    """The indices of the labelled images of train. With several label columns, they are balanced by
    the first column.
    """
    y = frozen.features("train").y
    if percent >= 100:
        return torch.arange(len(y))
    return balanced(y[:, 0], frozen.features("train").factors[0][1], percent, frozen.seed)


def _trained(model: Classifier, source: Source, rows: Tensor, frozen: Frozen, epochs: int):  # type: ignore[no-untyped-def]
    """Train in place; yields the number of each finished epoch."""
    groups = [
        {"params": model.head.parameters(), "lr": HEAD_RATE},
        {"params": model.method.parameters(), "lr": ENCODER_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    size = min(BATCH, len(rows))
    per_epoch = len(rows) // size
    total = per_epoch * epochs
    order = train_sampler(len(rows), size, frozen.seed, 0, total, device=frozen.device)
    batches = source.batches(((rows[index], rng) for index, rng in order), 1)
    model.train()
    for step in steps_left(total, "finetune"):
        batch = next(batches)
        share = warmup_cosine(step, WARMUP * total, total)
        for group, rate in zip(optimizer.param_groups, (HEAD_RATE, ENCODER_RATE), strict=True):
            group["lr"] = rate * share
        optimizer.zero_grad()
        parts = zip(model(batch.views[0]), batch.label.T, strict=True)
        loss = torch.stack([F.cross_entropy(logits, label) for logits, label in parts]).mean()
        if not loss.isfinite():
            raise Unmeasurable(f"finetune: the loss is {loss.item()} at step {step}")
        loss.backward()
        optimizer.step()
        if (step + 1) % per_epoch == 0:
            yield (step + 1) // per_epoch
            model.train()


@torch.no_grad()
def _top1(model: Classifier, source: Source, frozen: Frozen) -> list[float]:
    """Top-1 of each label column on plain images."""
    model.eval()
    right = torch.zeros(len(model.sizes), dtype=torch.float64)
    order = eval_sampler(len(source), frozen.run.seed, device=frozen.device, purpose="features")
    for batch in source.batches(order, 1):
        for column, logits in enumerate(model(batch.views[0])):
            right[column] += (logits.argmax(1) == batch.label[:, column]).sum().item()
    return (right / len(source)).tolist()


class FinetuneProbe(Probe):
    """Supervised training that starts from the encoder, as papers report it."""

    name, on_request = "finetune", True
    summary = "the encoder trained on labels with a linear classifier: top-1 on test"
    columns = ("fine-tuned %",)
    options = {"epochs": 10, "percent": 100}
    schema = """
        "top1", "top1/FACTOR", "images" (labelled), "epochs", "best_epoch" (on val), "percent" """

    def requires(self, frozen: Frozen) -> str:
        if not isinstance(frozen.method, nn.Module):
            return "needs an encoder, not only its features"
        return without_labels(frozen)

    def measure(self, frozen: Frozen, **options: int) -> Found:
        return Found(finetuned(frozen, options["epochs"], options["percent"]))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{100 * numbers['top1']:.1f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(100 * numbers["top1"], digits=1)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {"finetune/top1": numbers["top1"]}

    def sentences(self, numbers: Numbers) -> list[str]:
        return [
            f"fine-tuned on {numbers['images']:,} labelled images ({numbers['percent']} %),"
            f" {numbers['epochs']} epochs (epoch {numbers['best_epoch']} is the best on val):"
            f" {100 * numbers['top1']:.1f} % top-1 on test"
        ]
