"""Does `trainer.cuda_graph` change a run? Each method trains once with it and once without it."""

import torch
from torch import Tensor

from scripts.checks.gpu.report import Check
from scripts.checks.gpu.steps import HALF, ONE_GRAPH, Steps

STEPS = 12
SMALL = "optim.batch_size=64"
METHODS = {
    "simclr_cifar10": (3, 32, 32),
    "moco_cifar10": (3, 32, 32),
    "byol_sprites": (3, 32, 32),
    "lejepa_sprites": (3, 32, 32),
    "beta_vae_cifar10": (3, 32, 32),
    "vlae_mnist": (1, 28, 28),
}


def one_graph(check: Check) -> None:
    """With deterministic kernels, both runs must have the same weights, bit for bit."""
    if not check.gpu:
        check.say("one_graph: skipped, a CPU has no graphs")
        return
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        for name, shape in METHODS.items():
            (plain, loss), (graphed, other) = (
                _trained(check, name, shape, words) for words in ([], [ONE_GRAPH])
            )
            off = (plain - graphed).abs().max().item()
            check.put(name, {"weights": off, "losses": [loss, other]})
            said = "bit for bit the same" if off == 0 else f"weights differ by {off:.1e} at most"
            check.say(f"one_graph, {name}: {said} after {STEPS} steps; loss {other:.6f}")
            if off != 0:
                check.fail(f"{name}: weights differ by {off:.1e}, losses {loss} and {other}")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def _trained(
    check: Check, name: str, shape: tuple[int, int, int], words: list[str]
) -> tuple[Tensor, float]:
    """All weights after the last step, and its loss. An evaluation takes place in between."""
    steps = Steps(check, name, [HALF, SMALL, *words], shape)
    method = steps.state.method
    for number in range(STEPS):
        loss = steps.step()["loss"]
        if number == STEPS // 2:
            method.eval()
            with torch.no_grad():
                method.embed(torch.zeros(100, *shape, dtype=torch.uint8, device=check.device))
            method.train()
    weights = [x.detach().double().flatten() for x in method.state_dict().values()]
    return torch.cat(weights).cpu(), loss.item()
