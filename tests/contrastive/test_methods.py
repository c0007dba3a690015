"""The losses of the methods other than SimCLR and MoCo; lightly and closed forms are oracles."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightly.loss import DCLLoss, NegativeCosineSimilarity, NTXentLoss, SIGReg, VICRegLoss

from contrastive.byol import BYOL, BYOLConfig, distance
from contrastive.dcl import decoupled_loss
from contrastive.lejepa import LeJEPA, LeJEPAConfig, sigreg
from contrastive.mocov3 import MoCoV3, MoCoV3Config
from contrastive.supcon import SupCon, SupConConfig, supervised_loss
from contrastive.vicreg import VICReg, VICRegConfig, three_terms
from tests.front_door import run_in_processes


def views(n=12, d=7, dtype=torch.float64):
    torch.manual_seed(0)
    first = torch.randn(n, d, dtype=dtype)
    return first.requires_grad_(), (
        first.detach() + torch.randn(n, d, dtype=dtype)
    ).requires_grad_()


def same(ours, theirs, inputs, atol=1e-9):
    """Equal losses and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    pairs = zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True)
    for own, other in pairs:
        assert own.abs().max() > 0
        torch.testing.assert_close(own, other, rtol=0, atol=atol)


def unit(x):
    return F.normalize(x, dim=1)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_dcl_is_lightlys(temperature):
    x, y = views()
    same(
        decoupled_loss(unit(x), unit(y), temperature),
        DCLLoss(temperature=temperature)(x, y),
        (x, y),
    )


def test_dcl_is_nt_xent_without_the_positive():
    x, y = (unit(v.detach()) for v in views(2, 3))
    z = torch.cat([x, y])
    terms = [
        -(z[i] @ z[(i + 2) % 4]) / 0.3
        + torch.logsumexp(torch.stack([z[i] @ z[k] / 0.3 for k in range(4) if k % 2 != i % 2]), 0)
        for i in range(4)
    ]
    torch.testing.assert_close(decoupled_loss(x, y, 0.3), torch.stack(terms).mean())


def test_supcon_with_distinct_labels_is_nt_xent():
    x, y = views()
    label = torch.arange(12)[:, None]
    theirs = NTXentLoss(temperature=0.2)(x, y)
    same(supervised_loss(unit(x), unit(y), label, 0.2), theirs, (x, y))


def test_supcon_is_the_sum_of_the_paper():
    """Equation 2 (L_out), term by term, with two label columns."""
    x, y = views(6, 4)
    label = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 0], [1, 0], [1, 0]])
    z, labels = unit(torch.cat([x, y])), label.repeat(2, 1).tolist()
    terms = []
    for i in range(12):
        others = [a for a in range(12) if a != i]
        whole = torch.logsumexp(torch.stack([z[i] @ z[a] / 0.3 for a in others]), 0)
        own = [p for p in others if labels[p] == labels[i]]
        terms.append(-sum(z[i] @ z[p] / 0.3 - whole for p in own) / len(own))
    ours = supervised_loss(unit(x), unit(y), label, 0.3)
    same(ours, torch.stack(terms).mean(), (x, y))


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (3.0, 0.5, 2.0)])
def test_vicreg_is_lightlys(weights):
    x, y = views()
    ours = (torch.tensor(weights, dtype=torch.float64) * three_terms(x * 0.3, y * 0.3)).sum()
    same(ours, VICRegLoss(*weights)(x * 0.3, y * 0.3), (x, y))


def test_byol_is_lightlys():
    x, y = views()
    same(distance(x, y), 2 + 2 * NegativeCosineSimilarity()(x, y), (x, y))


def test_sigreg_is_lightlys(monkeypatch):
    x, y = views(30, 5)
    codes = torch.stack([x, y])
    directions = torch.randn(5, 40, dtype=torch.float64)
    oracle = SIGReg(num_vectors=40)
    t = oracle.t.double()  # lightly keeps these in float32
    oracle.phi = (-t.square() / 2).exp()
    weight = torch.full_like(t, 2 * 3 / 16)
    weight[[0, -1]] /= 2
    oracle.weights = weight * oracle.phi
    made = directions / directions.norm(dim=0)
    monkeypatch.setattr(oracle, "_generate_unit_vectors", lambda *_: made)
    same(sigreg(codes, directions), oracle(codes), (x, y))


def test_sigreg_is_small_for_normal_codes():
    torch.manual_seed(0)
    directions = torch.randn(8, 200)
    normal = sigreg(torch.randn(1, 4000, 8), directions)
    assert normal < 0.1 * sigreg(torch.randn(1, 4000, 8).sign(), directions)
    assert normal < 0.01 * sigreg(3 * torch.randn(1, 4000, 8), directions)


def test_moco_v3_is_the_published_loss(make_batch):
    """Cross-entropy of queries against keys, times 2 T, summed over directions: 4 T times ours."""
    torch.manual_seed(0)
    method = MoCoV3(MoCoV3Config("test_vit", patch=8, projection=16, hidden=32), (3, 32, 32))
    batch, t = make_batch(8), method.temperature
    out = method.eval()(batch)
    (q1, _), (q2, _) = (method.codes(view, view) for view in batch.views)
    (_, k1), (_, k2) = (method.codes(view, view) for view in batch.views)
    labels = torch.arange(8)
    published = sum(F.cross_entropy(q @ k.T / t, labels) * 2 * t for q, k in ((q1, k2), (q2, k1)))
    torch.testing.assert_close(out.loss * 4 * t, published, rtol=0, atol=1e-5)
    assert out.metrics["in_batch_bound"].item() == pytest.approx(math.log(8) - out.loss.item())
    out.loss.backward()
    assert all(p.grad is None for p in method.key.parameters())
    assert method.query["backbone"].net.patch_embed.proj.weight.grad is None
    assert method.query["backbone"].net.blocks[0].attn.qkv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", [BYOL, MoCoV3])
def test_the_slow_copy_follows(kind, make_batch):
    config = {BYOL: BYOLConfig(momentum=0.9), MoCoV3: MoCoV3Config("test_vit", momentum=0.9)}[kind]
    method = kind(config, (3, 32, 32))
    slow, fast = (method.target, method.online) if kind is BYOL else (method.key, method.query)
    before = [p.clone() for p in slow.parameters()]
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(1)
    method.after_step(0.0)
    for old, new in zip(before, slow.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    method.after_step(1.0)  # at the end m = 1
    for old, new in zip(before, slow.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_micro_batches_give_the_same_gradients(make_batch):
    """Without batch norm in the way: in evaluation mode rows are independent."""
    batch = make_batch(8)
    for kind, config in (
        (VICReg, VICRegConfig(projection=8)),
        (LeJEPA, LeJEPAConfig(slices=16)),
        (BYOL, BYOLConfig()),
        (SupCon, SupConConfig()),
        (MoCoV3, MoCoV3Config("test_vit")),
    ):
        torch.manual_seed(0)
        method = kind(config, (3, 32, 32)).eval()
        grads = []
        for micro in (0, 4):
            method.micro_batch = micro
            method.zero_grad()
            out = method(batch)
            out.loss.backward()
            grads.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
        for whole, parts in zip(*grads, strict=True):
            torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: VICRegConfig(projection=1), "projection"),
        (lambda: BYOLConfig(momentum=1.5), "momentum"),
        (lambda: LeJEPAConfig(share=2), "share"),
        (lambda: SupConConfig(columns=[-1]), "columns"),
        (lambda: MoCoV3Config(patch=-1), "patch"),
        (lambda: MoCoV3Config(temperature=0), "temperature"),
    ],
)
def test_values_out_of_range_name_their_key(make, key):
    with pytest.raises(ValueError, match=f"^{key}:"):
        make()


def weighted(first, second, label):
    return (torch.tensor([25.0, 25.0, 1.0], dtype=first.dtype) * three_terms(first, second)).sum()


LOSSES = {
    "dcl": lambda x, y, label: decoupled_loss(unit(x), unit(y), 0.2),
    "supcon": lambda x, y, label: supervised_loss(unit(x), unit(y), label, 0.2),
    "vicreg": weighted,
    "sigreg": lambda x, y, label: sigreg(torch.stack([x, y]), DIRECTIONS),
    "byol": lambda x, y, label: distance(x, y),
}
DIRECTIONS = torch.randn(7, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = (torch.arange(12) % 5)[:, None]


def of_a_process(rank, size, place, folder):
    """Each loss of this process's rows, and its gradients with respect to them."""
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=size)
    mine, found = slice(rank * 12 // size, (rank + 1) * 12 // size), {}
    for name, loss in LOSSES.items():
        x, y = (v.detach()[mine].requires_grad_() for v in views())
        value = loss(x, y, LABELS[mine])
        found[name] = value.detach(), torch.autograd.grad(value, (x, y))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_processes_together_have_the_loss_and_gradient_of_one(size, tmp_path):
    run_in_processes(of_a_process, size, size, tmp_path / "place", tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    for name, loss in LOSSES.items():
        x, y = views()
        value = loss(x, y, LABELS)
        together = torch.stack([part[name][0] for part in parts]).mean()
        torch.testing.assert_close(together, value.detach(), rtol=0, atol=1e-9)
        for number, grad in enumerate(torch.autograd.grad(value, (x, y))):
            made = torch.cat([part[name][1][number] for part in parts]) / size  # DDP's mean
            torch.testing.assert_close(made, grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_projection_of_patches_is_trained_if_the_config_says_so(frozen):
    config = MoCoV3Config("test_vit", patch=8, freeze_patches=frozen)
    net = MoCoV3(config, (3, 32, 32)).query["backbone"].net
    assert {p.requires_grad for p in net.patch_embed.parameters()} == {not frozen}
    assert all(p.requires_grad for p in net.blocks.parameters())
