"""On devices where each operator needs a launch, all scores are one block: the same losses with few
operators. The CPU takes the GPU's code paths here.
"""

import logging
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor

from core.information import chunked, flash, in_batch, losses
from core.information.in_batch import InBatch, Layout
from core.information.losses import (
    clip_loss,
    in_batch_loss,
    nt_xent,
    nt_xent_and_in_batch,
    queue_loss,
)
from tests.exact import any_codes, codes, errors, exact_clip, exact_nt_xent, exact_queue
from tests.launches import launches


def in_one_block(most: int = 2**26):
    return mock.patch.multiple(chunked, DEVICES=("cpu",), AT_ONCE=most)


@settings(max_examples=100, deadline=None)
@any_codes
def test_one_block_equals_all_scores_in_float64(n, k, d, temperature, norm, dtype, seed):
    first, second, queue = (
        codes(size, d, seed + part, norm).to(dtype) for part, size in enumerate((n, n, k))
    )
    limit = 1e-9 if dtype == torch.float64 else max(1e-6, 5e-7 * norm**2 / temperature)
    contests = [
        (
            lambda q, key, t: queue_loss(q, key, queue, t),
            lambda q, key, t: exact_queue(q, key, queue.double(), t),
        ),
        (lambda a, b, t: nt_xent_and_in_batch(a, b, t)[0], exact_nt_xent),
        (clip_loss, exact_clip),
        (
            lambda a, b, t: clip_loss(a, b, t, both=False),
            lambda a, b, t: F.cross_entropy(a @ b.T / t, torch.arange(len(a))),
        ),
    ]
    with (
        in_one_block(),
        mock.patch.object(in_batch, "_Scored", side_effect=AssertionError),
        mock.patch.object(chunked, "_of_rows", side_effect=AssertionError),
    ):
        for loss, exact in contests:
            off, gradient = errors(
                loss, exact, [first, second], temperature, floor=0.1 * norm / temperature
            )
            if dtype == torch.float32:  # the relative error of a loss near zero is larger
                found = loss(first, second, temperature).double()
                off = abs(found - exact(first.double(), second.double(), temperature)).item()
            assert max(off, gradient) < limit
        _, one_sided = nt_xent_and_in_batch(first, second, temperature)
        plain = in_batch_loss(first, second, temperature)
    expected = F.cross_entropy(
        torch.cat([first @ second.T, second @ first.T]).double() / temperature,
        torch.arange(n).repeat(2),
    )
    assert one_sided.item() == pytest.approx(expected.item(), rel=1e-4, abs=limit)
    assert plain.grad_fn is None


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_part_of_one_process_is_the_same_in_one_block_and_in_tiles(views, rank):
    rows, everyone = codes(4 * views, 8, rank), codes(12 * views, 8, 9)
    everyone.view(views, 3, 4, 8)[:, rank] = rows.view(views, 4, 8)
    found = []
    for block in (False, True):
        given_ = [x.double().clone().requires_grad_() for x in (rows, everyone)]
        with in_one_block(2**26 if block else 0):
            loss, one_sided = InBatch.apply(*given_, 5.0, Layout(4, views, 3, rank))
        loss.backward()
        found.append([loss, one_sided, *(x.grad for x in given_)])
    for tiles, block in zip(*found, strict=True):
        torch.testing.assert_close(block, tiles, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("most, blocks", [(64 * 64, True), (64 * 64 - 1, False)])
def test_too_many_scores_are_not_computed_in_one_block(most, blocks):
    query, key, queue = codes(64, 8, 0), codes(64, 8, 1), codes(64, 8, 2)
    with (
        in_one_block(most),
        mock.patch.object(chunked, "scores_of", wraps=chunked.scores_of) as made,
        mock.patch.object(in_batch, "scores_of", made),
    ):
        clip_loss(query, key, 0.1, both=False)
        queue_loss(query, key, queue, 0.1)
        assert made.call_count == 2 * blocks
        made.reset_mock()
        # keys in half precision are widened, which is one more operator
        queue_loss(query[:1], key[:1], codes(64 * 64, 8, 2).half(), 0.1)
        assert not made.called


def test_normalising_equals_torchs_with_its_gradient():
    x = codes(6, 5, 0, norm=3.0).double()
    x[2] = 0
    made = [x.clone().requires_grad_() for _ in range(2)]
    weight = codes(6, 5, 1).double()
    (losses._Unit.apply(made[0]) * weight).sum().backward()
    (F.normalize(made[1], dim=1) * weight).sum().backward()
    torch.testing.assert_close(made[0].grad[[0, 1, 3, 4, 5]], made[1].grad[[0, 1, 3, 4, 5]])
    torch.testing.assert_close(made[0].grad[2], made[1].grad[2])


@pytest.mark.parametrize(
    "name, most",
    [("nt_xent", 43), ("nt_xent_and_in_batch", 36), ("clip", 54), ("queue", 22), ("flash", 29)],
)
def test_a_loss_and_its_gradient_take_few_operators(name, most):
    first, second = (codes(32, 16, i).requires_grad_() for i in range(2))
    queue = codes(2048, 16, 2)
    of: dict[str, object] = {
        "nt_xent": lambda: nt_xent(first, second, 0.1),
        "nt_xent_and_in_batch": lambda: nt_xent_and_in_batch(first, second, 0.1)[0],
        "clip": lambda: clip_loss(first, second, 0.1),
        "queue": lambda: queue_loss(first, second.detach(), queue, 0.1),
        "flash": lambda: queue_loss(first, second.detach(), queue, 0.1),
    }
    flash.kernel(torch.device("cpu"))  # its trial is made once
    with (
        in_one_block(),
        mock.patch.object(flash, "DEVICES", ("cpu",)),
        torch.autocast("cpu", torch.bfloat16, enabled=name == "flash"),
    ):
        found = launches(lambda: of[name]().backward())  # type: ignore[operator]
    assert found.total() <= most, found


def test_the_log_says_once_that_flash_attention_can_not_serve(caplog):
    query, queue = codes(32, 16, 0), codes(64, 16, 1)
    flash._warn_once.cache_clear()
    with (
        mock.patch.object(flash, "DEVICES", ("cpu",)),
        mock.patch.object(flash, "kernel", lambda device: None),
        torch.autocast("cpu", torch.bfloat16),
        caplog.at_level(logging.WARNING),
    ):
        found: list[Tensor] = [queue_loss(query, query, queue, 0.5) for _ in range(3)]
    flash._warn_once.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no suitable flash attention" in caplog.text and "float32" in caplog.text
    assert torch.equal(found[0], queue_loss(query, query, queue, 0.5))
