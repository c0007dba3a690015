"""Are the device's results right? Each loss and its gradient are compared with float64; views,
random numbers, neighbours and regression are compared with the CPU.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.views import augment, policy
from core.information import flash
from core.information.losses import clip_loss, nt_xent, queue_loss
from core.randomness import KeyedRNG
from probes.labels.knn import search
from probes.labels.logistic import Logistic
from scripts.checks.gpu.measure import relative, unit
from scripts.checks.gpu.report import Check

# largest error of the loss in nats, and largest relative error of its gradient
LIMITS = {
    "queue_flash": (3e-4, 5e-3),
    "queue_chunks": (2e-5, 1e-4),
    "nt_xent": (2e-5, 1e-4),
    "clip": (2e-5, 1e-4),
}


def losses(check: Check) -> None:
    """Compare every loss and its gradient with float64; the worst case must be within its limit."""
    worst: dict[str, list[float]] = {}

    def compare(name: str, found: list[Tensor], exact: list[Tensor]) -> None:
        loss = abs(found[0].item() - exact[0].item())
        gradient = max(
            relative(a, b, least=1e-3) for a, b in zip(found[1:], exact[1:], strict=True)
        )
        before = worst.setdefault(name, [0, 0.0, 0.0])
        worst[name] = [before[0] + 1, max(before[1], loss), max(before[2], gradient)]

    _queue(check, compare)
    _in_batch(check, compare)
    for name, (cases, loss, gradient) in worst.items():
        check.put(name, {"cases": cases, "loss_nats": loss, "gradient_relative": gradient})
        check.say(f"{name}: {cases} cases, loss within {loss:.1e}, gradient within {gradient:.1e}")
        if not (loss <= LIMITS[name][0] and gradient <= LIMITS[name][1]):
            check.fail(f"{name} is beyond its limits {LIMITS[name]}")
    if check.gpu and "queue_flash" not in worst:
        check.fail("flash attention was never used for the queue's loss")


Compare = Callable[[str, list[Tensor], list[Tensor]], None]


def _queue(check: Check, compare: Compare) -> None:
    lengths = (1, 100, 4096, 65536) if check.gpu else (1, 100, 3000)
    sizes = ((1, 128), (256, 128), (37, 100), (64, 256)) if check.gpu else ((5, 16), (37, 100))
    for k, (n, d), t in itertools.product(lengths, sizes, (0.05, 0.2)):
        query, key, keys = (unit(rows, d, k + i, check.device) for i, rows in enumerate((n, n, k)))
        exact = _with_gradient(
            lambda q, key=key, keys=keys, t=t: _exact_queue(q, key.double(), keys.double(), t),
            query.double(),
        )
        for half in (False, True):
            with torch.autocast(check.device.type, torch.bfloat16, enabled=half):
                found = _with_gradient(
                    lambda q, key=key, keys=keys, t=t: queue_loss(q, key, keys, t), query
                )
            served = half and flash.serves(query, keys, 1 / t)
            compare("queue_flash" if served else "queue_chunks", found, exact)


def _exact_queue(query: Tensor, key: Tensor, keys: Tensor, temperature: float) -> Tensor:
    scores = torch.cat([(query * key).sum(1, keepdim=True), query @ keys.T], 1) / temperature
    return (scores.logsumexp(1) - scores[:, 0]).mean()


def _in_batch(check: Check, compare: Compare) -> None:
    for n, t in itertools.product((2, 7, 512, 2500) if check.gpu else (2, 7, 130), (0.05, 0.5)):
        views = [unit(n, 128, n + i, check.device) for i in range(2)]
        exact = [view.double() for view in views]
        compare(
            "nt_xent",
            _with_gradient(lambda a, b, t=t: nt_xent(a, b, t), *views),
            _with_gradient(lambda a, b, t=t: _exact_nt_xent(a, b, t), *exact),
        )
        compare(
            "clip",
            _with_gradient(lambda a, b, t=t: clip_loss(a, b, t), *views),
            _with_gradient(lambda a, b, t=t: _exact_clip(a, b, t), *exact),
        )


def _exact_nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    z = F.normalize(torch.cat([first, second]), dim=1)
    scores = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(scores, torch.arange(len(z), device=z.device).roll(len(first)))


def _exact_clip(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    scores, own = first @ second.T / temperature, torch.arange(len(first), device=first.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def _with_gradient(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The loss and its gradient with respect to each input."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def as_on_the_cpu(check: Check) -> None:
    """Check that views, random numbers, neighbours and regression are the same as on the CPU."""
    _views(check)
    _random_numbers(check)
    _neighbours(check)
    _regression(check)


def _views(check: Check) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 256 if check.gpu else 64
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    for name in ("simclr", "moco", "crop"):
        made = [
            augment(images.to(place), KeyedRNG(0, 3, device=place).fork("view0"), policy(name, 32))
            for place in ("cpu", check.device)
        ]
        off = (made[0].int() - made[1].cpu().int()).abs()
        worst, share = off.max().item(), (off > 0).double().mean().item()
        check.put(f"views_{name}", {"levels": worst, "share": share})
        check.say(f"views {name}: {share:.2e} of the numbers differ, by {worst} levels at most")
        if worst > 1:
            check.fail(f"views of '{name}' differ from the CPU's by {worst} levels")


def _random_numbers(check: Check) -> None:
    for kind in ("normal", "uniform"):
        cpu, device = (
            getattr(KeyedRNG(0, 1, device=device), kind)("x", 128, 3, 32, 32).cpu()
            for device in ("cpu", check.device)
        )
        same = torch.equal(cpu, device)
        check.put(f"random_{kind}_as_on_cpu", same)
        check.say(f"random numbers, {kind}: {'as' if same else 'NOT as'} on the CPU")
    whole = KeyedRNG(0, 1, device=check.device).normal("x", 128, 3, 32, 32)
    part = KeyedRNG(0, 1, 1, 4, check.device).normal("x", 32, 3, 32, 32)
    if not torch.equal(whole[32:64], part):
        check.fail("a process does not draw its slice of the global batch's numbers")


def _neighbours(check: Check) -> None:
    n, m, k = (20000, 2000, 200) if check.gpu else (800, 50, 20)
    bank, query = unit(n, 128, 1), unit(m, 128, 2)
    found, exact = search(bank, query, k, check.device), (query.double() @ bank.double().T).topk(k)
    off = (found.similarity.double().cpu() - exact.values).abs().max().item()
    pairs = zip(found.place.tolist(), exact.indices.tolist(), strict=True)
    alike = sum(set(a) == set(b) for a, b in pairs) / m
    check.put("knn", {"similarity": off, "same_neighbours": alike})
    check.say(f"kNN: similarities within {off:.1e}, the same neighbours for {alike:.2%}")
    if off > 1e-5:
        check.fail("kNN's similarities differ from those in float64")


def _regression(check: Check) -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2000, 32, generator=draw)
    y = (x[:, :4] + 0.3 * torch.randn(2000, 4, generator=draw)).argmax(1)
    weights = []
    for device in ("cpu", check.device):
        model = Logistic(x.to(device))
        fitted = model.parameters(model.fit(y.to(device), 4, (1e-3, 1e-1)))
        weights.append(torch.cat([part.cpu().flatten() for part in fitted]))
    off = relative(weights[1], weights[0])
    check.put("logistic_relative", off)
    check.say(f"logistic regression: weights within {off:.1e} of the CPU's")
    if not off < 1e-3:
        check.fail("logistic regression differs from the CPU's")
