"""The losses are compared with lightly's, the queue with a plain list, and MoCo's momentum update
with its equation.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

from contrastive.moco import MoCo, MoCoConfig, _encode
from contrastive.queue import KeyQueue
from contrastive.simclr import SimCLR, SimCLRConfig
from core.information import infonce, nt_xent
from core.information.losses import in_batch_loss, nt_xent_and_in_batch, queue_loss


def unit(n: int, d: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(x, dim=1).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_and_its_gradient_equal_lightly(dtype, tolerance, temperature):
    ours, peers = [[unit(24, 16, dtype, seed) for seed in (1, 2)] for _ in range(2)]
    loss, _ = nt_xent_and_in_batch(
        *(F.normalize(x, dim=1) for x in ours), temperature
    )  # lightly normalises inside
    peer = NTXentLoss(temperature=temperature)(*peers)
    torch.testing.assert_close(loss, peer, rtol=tolerance, atol=tolerance)
    loss.backward()
    peer.backward()
    for a, b in zip(ours, peers, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=tolerance, atol=tolerance)


def test_the_public_losses_normalise_and_equal_lightly_and_a_cross_entropy():
    first, second = (3 * torch.randn(2, 12, 8)).requires_grad_()
    views = [x.detach().clone().requires_grad_() for x in (first, second)]
    torch.testing.assert_close(nt_xent(*views, 0.2), NTXentLoss(temperature=0.2)(*views))
    query, key = (F.normalize(x, dim=1) for x in views)
    queue = torch.randn(20, 8)
    scores, places = query @ key.T / 0.2, torch.arange(12)
    torch.testing.assert_close(infonce(*views, 0.2), F.cross_entropy(scores, places))
    rest = query @ F.normalize(queue, dim=1).T / 0.2
    expected = F.cross_entropy(torch.cat([scores.diag()[:, None], rest], 1), 0 * places)
    torch.testing.assert_close(infonce(*views, 0.2, queue=queue), expected)
    for loss in (nt_xent, infonce):
        gradients = torch.autograd.grad(loss(*views, 0.2), views)
        assert all(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda a, b: nt_xent(a, b[:-1], 0.1), "give two of the same shape"),
        (lambda a, b: nt_xent(a[0], b[0], 0.1), "give two of the same shape"),
        (lambda a, b: infonce(a[:0], b[:0], 0.1), "give two of the same shape"),
        (lambda a, b: nt_xent(a, b, 0.0), "temperature: must be above 0"),
        (lambda a, b: infonce(a, b, float("nan")), "temperature: must be above 0"),
        (lambda a, b: infonce(a, b, 0.1, queue=b[:, :-1]), r"queue \(4, 7\): give \[K, 8\]"),
    ],
)
def test_inputs_without_a_loss_are_named(call, line):
    with pytest.raises(ValueError, match=line):
        call(*torch.randn(2, 4, 8))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_queue_loss_equals_lightly_with_the_same_bank(dtype, tolerance):
    query, key, queue = (
        unit(12, 16, dtype, 1),
        unit(12, 16, dtype, 2),
        unit(64, 16, dtype, 3).detach(),
    )
    peer = NTXentLoss(temperature=0.2, memory_bank_size=(64, 16)).to(dtype)
    peer.memory_bank.bank = queue.clone()
    peer.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    expected = peer(query, key)
    torch.testing.assert_close(
        queue_loss(query, key, queue, 0.2), expected, rtol=tolerance, atol=tolerance
    )


def test_scores_are_float32_under_autocast():
    a, b, queue = (unit(32, 16, torch.float32, seed) for seed in (1, 2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = nt_xent_and_in_batch(a, b, 0.05)[0], queue_loss(a, b, queue, 0.05)
    torch.testing.assert_close(
        mixed, (nt_xent_and_in_batch(a, b, 0.05)[0], queue_loss(a, b, queue, 0.05)), rtol=0, atol=0
    )


def test_one_sided_bound_is_the_cross_entropy_of_each_side():
    a, b = unit(10, 8, torch.float64, 1), unit(10, 8, torch.float64, 2)
    _, one_sided = nt_xent_and_in_batch(a, b, 0.3)
    target = torch.arange(10)
    expected = (F.cross_entropy(a @ b.T / 0.3, target) + F.cross_entropy(b @ a.T / 0.3, target)) / 2
    torch.testing.assert_close(one_sided, expected, rtol=1e-12, atol=1e-12)


def test_the_in_batch_loss_is_one_direction_of_clip_loss_without_gradient():
    a, b = unit(10, 8, torch.float64, 1), unit(10, 8, torch.float64, 2)
    sides = in_batch_loss(a, b, 0.3), in_batch_loss(b, a, 0.3)
    torch.testing.assert_close(
        torch.stack(sides).mean(), nt_xent_and_in_batch(a, b, 0.3)[1], rtol=1e-12, atol=1e-12
    )
    assert sides[0] != sides[1] and not sides[0].requires_grad


def test_each_train_bound_is_log_of_its_own_candidates_minus_its_own_loss(make_batch):
    """SimCLR: 2N - 1 = 15 and N = 8 candidates; MoCo: K + 1 = 11 and N = 8."""
    batch = make_batch(8)
    simclr, moco = (
        SimCLR(SimCLRConfig(hidden=16, projection=8), (3, 32, 32)).eval(),
        MoCo(MoCoConfig(queue=10, hidden=16), (3, 32, 32)).eval(),
    )
    for method, candidates in ((simclr, 15), (moco, 11)):
        output = method(batch)
        pairs = method.codes(*batch.views), method.codes(*batch.views[::-1])
        losses = [
            F.cross_entropy(query @ key.T / method.temperature, torch.arange(8))
            for query, key in pairs
        ]
        torch.testing.assert_close(
            output.metrics["train_bound"], math.log(candidates) - output.loss.detach()
        )
        torch.testing.assert_close(
            output.metrics["in_batch_bound"], math.log(8) - torch.stack(losses).mean().detach()
        )


def test_log_2n_minus_1_exceeds_the_truth_and_log_n_does_not():
    """Identical views, 2 equally likely values, N = 6, I = log 2, averaged over all 64 batches:
    log(2N - 1) - L = 0.6969 > 0.6931.
    """
    losses = []
    for content in torch.cartesian_prod(*[torch.tensor([0, 1])] * 6):
        code = F.one_hot(content, 2).double()
        losses.append(torch.stack(nt_xent_and_in_batch(code, code, 1 / 40)))
    two_view, one_sided = torch.stack(losses).mean(0)
    assert math.log(11) - two_view == pytest.approx(0.6969, abs=1e-4)
    assert math.log(11) - two_view > math.log(2) > math.log(6) - one_sided > math.log(6) - two_view


@pytest.mark.parametrize(
    "length, sizes",
    [(10, [4] * 7), (8, [3, 5, 8, 1]), (5, [12, 2, 7]), (1, [3, 1]), (7, [7, 14, 1])],
)
def test_the_queue_keeps_the_last_k_keys_for_any_batch(length, sizes):
    queue, everything = KeyQueue(length, 3), []
    for number, size in enumerate(sizes):
        keys = torch.full((size, 3), float(number)) + torch.arange(size)[:, None] / 100
        queue.enqueue(keys)
        everything += list(keys)
    newest_first = [
        queue.keys[(queue.pointer - 1 - i) % length] for i in range(min(length, len(everything)))
    ]
    torch.testing.assert_close(
        torch.stack(newest_first), torch.stack(everything[::-1][: len(newest_first)])
    )
    assert queue.filled == min(length, len(everything))
    assert set(queue.state_dict()) == {"keys", "pointer", "filled"}


def test_a_queue_continues_from_its_state_and_refuses_counters_outside_of_it():
    first, second = KeyQueue(6, 2), KeyQueue(6, 2)
    for number in range(4):
        first.enqueue(torch.full((2, 2), float(number)))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.keys, second.keys)
    for queue in (first, second):
        queue.enqueue(torch.full((1, 2), 9.0))
    assert torch.equal(first.keys, second.keys) and int(second.pointer) == 3
    assert first.oldest(2)[1] == second.oldest(2)[1] == 3
    for wrong in ({"pointer": 6}, {"pointer": -1}, {"filled": 7}, {"filled": -1}):
        state = first.state_dict() | {key: torch.tensor(value) for key, value in wrong.items()}
        with pytest.raises(RuntimeError, match="outside of the queue's 6 keys"):
            second.load_state_dict(state)
    second.load_state_dict(first.state_dict() | {"pointer": torch.tensor(5)})


def test_moco_scores_before_it_enqueues_and_moves_the_key_encoder(make_batch):
    method = MoCo(
        MoCoConfig(queue=10, hidden=16, projection=8, momentum=0.9, momentum_end=0.9), (3, 32, 32)
    ).train()
    before = [p.clone() for p in method.key.parameters()]
    queue = method.queue.keys.clone()
    with torch.no_grad():
        for p in method.query.parameters():
            p.add_(0.1)
    method(make_batch(8))
    torch.testing.assert_close(method.queue.keys, queue)  # unchanged until the step is over
    method.after_step(0.5)
    for old, new, query in zip(
        before, method.key.parameters(), method.query.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * query)
    assert method.queue.filled == 10  # symmetric: 16 keys into 10 slots
    assert not any(p.requires_grad for p in method.key.parameters())


def test_moco_keys_do_not_share_batch_statistics_with_their_queries(make_batch):
    """Without the leak, the key of an image depends on its random group, not on the whole batch."""
    view = make_batch(16).views[0]
    whole, grouped = (
        MoCo(MoCoConfig(hidden=16, projection=8, shuffle_groups=g), (3, 32, 32)).train()
        for g in (1, 4)
    )
    grouped.load_state_dict(whole.state_dict())
    rng = make_batch(16).rng
    (keys,) = grouped._encode_keys([(view, rng)])
    order = torch.argsort(rng.uniform("shuffle", 16))
    first = order[:4]
    torch.testing.assert_close(
        keys[first], whole._encode_keys([(view[first], rng)])[0], rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(keys, whole._encode_keys([(view, rng)])[0], atol=1e-3)


@pytest.mark.parametrize(
    "build",
    [lambda: SimCLR(SimCLRConfig(), (3, 32, 32)), lambda: MoCo(MoCoConfig(queue=64), (1, 28, 28))],
)
def test_codes_are_unit_and_gradients_reach_every_trained_weight(build, make_batch):
    method = build().train()
    batch = make_batch(8, shape=method.shape)
    method(batch).loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in method.parameters()
        if p.requires_grad
    )
    method.eval()
    query, key = method.codes(*batch.views)
    torch.testing.assert_close(query.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(key.norm(dim=1), torch.ones(8))
    assert method.embed(batch.views[0]).shape == (8, 256)


def moco(**options: object) -> MoCo:
    """A MoCo whose key encoder is not its query encoder."""
    torch.manual_seed(0)
    method = MoCo(MoCoConfig(hidden=16, projection=8, queue=64, **options), (3, 32, 32))
    with torch.no_grad():
        for p in method.key.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return method


@pytest.mark.parametrize("progress, momentum", [(0.0, 0.9), (0.5, 0.945), (1.0, 0.99)])
def test_momentum_goes_from_its_start_to_its_end_by_half_a_cosine(progress, momentum):
    method = moco(momentum=0.9, momentum_end=0.99)
    before = [p.clone() for p in method.key.parameters()]
    method.after_step(progress)
    for old, new, query in zip(
        before, method.key.parameters(), method.query.parameters(), strict=True
    ):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * query)


def test_queries_come_from_the_query_encoder_and_keys_from_the_key_encoder(make_batch):
    method, (first, second) = moco().eval(), make_batch(8).views[:2]
    query, key = method.codes(first, second)
    torch.testing.assert_close(query, _encode(method.query, first))
    torch.testing.assert_close(key, _encode(method.key, second))
    assert not torch.allclose(key, _encode(method.query, second), atol=1e-3)
    assert torch.equal(method.encode(first).codes, query)
    assert torch.equal(method.encode(second, key=True).codes, key)
    for made in (method.encode(first), method.encode(first, key=True)):
        torch.testing.assert_close(made.features, method.query["backbone"](first))


@pytest.mark.parametrize("symmetric", [True, False])
def test_each_view_is_once_the_query_and_once_the_key(make_batch, symmetric):
    """The loss by a plain formula, and the keys in the queue: those of the second views, then those
    of the first.
    """
    method, (first, second) = moco(symmetric=symmetric, shuffle_groups=1), make_batch(8).views[:2]
    method.train()
    queue = method.queue.keys.clone()
    loss = method(make_batch(8)).loss
    with torch.no_grad():
        losses, keys = [], []
        for query_view, key_view in ((first, second), (second, first))[: 1 + symmetric]:
            query, key = _encode(method.query, query_view), _encode(method.key, key_view)
            own = (query * key).sum(1, keepdim=True)
            logits = torch.cat([own, query @ queue.T], 1) / method.temperature
            losses.append(F.cross_entropy(logits, torch.zeros(8, dtype=torch.long)))
            keys.append(key)
    torch.testing.assert_close(loss.detach(), torch.stack(losses).mean())
    assert losses[0] != losses[-1] or not symmetric
    method.after_step(0.5)
    torch.testing.assert_close(method.queue.keys[: 8 * len(keys)], torch.cat(keys))
    torch.testing.assert_close(method.queue.keys[8 * len(keys) :], queue[8 * len(keys) :])


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_bound_in_the_batch_is_the_mean_of_the_directions(make_batch, symmetric):
    """With a key encoder that differs from the query encoder, the two directions differ."""
    method, (first, second) = moco(symmetric=symmetric).eval(), make_batch(8).views[:2]
    method.temperature = 0.02
    pairs = [method.codes(first, second), method.codes(second, first)][: 1 + symmetric]
    losses = [
        F.cross_entropy(query @ key.T / 0.02, torch.arange(8)).detach() for query, key in pairs
    ]
    found = method(make_batch(8)).metrics["in_batch_bound"]
    torch.testing.assert_close(found, math.log(8) - torch.stack(losses).mean())
    assert abs(losses[0] - losses[-1]) > 0.01 or not symmetric
