"""MoCo's keys: one pass for all groups equals a pass for each group, but needs few operators."""

import copy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from contrastive.moco import MoCo, MoCoConfig, _encode
from core.information import chunked
from core.networks.batchnorm import GroupedBatchNorm, grouped, in_groups, synchronise
from tests.launches import launches

SHAPE = (3, 8, 8)


def moco(backbone: str = "small", shape: tuple[int, int, int] = SHAPE, **options: object) -> MoCo:
    torch.manual_seed(0)
    given = {"hidden": 16, "projection": 8, "queue": 64, "backbone": backbone} | options
    method = MoCo(MoCoConfig(**given), shape).train()  # type: ignore[arg-type]
    for part in method.key.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    return method


def one_group_after_another(method: MoCo, batch: object) -> tuple[Tensor, nn.Module]:
    """The keys of a batch by a plain loop over the groups, and the encoder afterwards. Outside of
    `in_groups`, batch norms are torch's own.
    """
    key, made = copy.deepcopy(method.key), []
    with torch.no_grad():
        for _, view, rng in method._directions(batch):  # type: ignore[arg-type]
            order = torch.argsort(rng.uniform("shuffle", len(view)))
            groups = order.tensor_split(min(method.config.shuffle_groups, max(1, len(view) // 2)))
            keys = torch.cat([_encode(key, view[group]) for group in groups])
            made.append(torch.empty_like(keys).index_copy_(0, order, keys))
    return torch.cat(made), key


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("n, groups", [(16, 4), (14, 4), (5, 4), (12, 1), (12, 3)])
@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_one_pass_equals_a_pass_for_each_group_in_keys_and_running_statistics(
    make_batch, memory, momentum, n, groups, dtype, limit
):
    method = moco(shuffle_groups=groups).to(dtype).to(memory_format=memory)
    for part in method.key.modules():
        if isinstance(part, GroupedBatchNorm):
            part.momentum = momentum
    batch = make_batch(n, shape=SHAPE)
    batch = batch._replace(views=tuple(view.to(dtype) / 255 for view in batch.views))
    for _ in range(2):  # running statistics that were updated before are updated again
        expected, plain = one_group_after_another(method, batch)
        keys = method._encode_keys([(view, rng) for _, view, rng in method._directions(batch)])
        torch.testing.assert_close(torch.cat(keys), expected, rtol=limit, atol=limit)
        for name, value in plain.named_buffers():
            found = method.key.get_buffer(name)
            torch.testing.assert_close(found, value, rtol=10 * limit, atol=limit, msg=name)


@pytest.mark.parametrize("backbone", ["small", "resnet10t"])
def test_one_pass_of_both_query_views_equals_a_pass_for_each_view(make_batch, backbone):
    """Loss, gradients and running statistics, in float64."""
    method = moco(backbone).double()
    batch = make_batch(6, shape=SHAPE)
    batch = batch._replace(views=tuple(view.double() / 255 for view in batch.views))
    plain = copy.deepcopy(method)
    plain._one_pass = False
    losses = [one(batch).loss for one in (method, plain)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-10)
    for (name, own), other in zip(method.named_parameters(), plain.parameters(), strict=True):
        if own.requires_grad:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-7, atol=1e-10, msg=name)
    for (name, own), other in zip(method.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("in_turns", [True, False])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_half_precision_keeps_dtype_and_format_with_statistics_in_float32(in_turns, memory):
    torch.manual_seed(0)
    layers = nn.ModuleList([BatchNormAct2d(6), nn.BatchNorm2d(6)])
    assert grouped(layers)
    x = (3 * torch.randn(24, 6, 5, 5) + 2).bfloat16().contiguous(memory_format=memory)
    number = torch.arange(24) % 4
    for layer, act in zip(layers, (F.relu, lambda x: x), strict=True):
        with torch.no_grad(), in_groups(layer, number, 4, in_turns):
            found = layer(x)
        assert found.dtype == x.dtype and found.is_contiguous(memory_format=memory)
        exact = torch.empty(24, 6, 5, 5, dtype=torch.float64)
        for group in range(4):
            exact[number == group] = act(
                F.batch_norm(x[number == group].double(), None, None, training=True)
            )
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=2**-8)
        mean = x.double().mean((0, 2, 3))
        torch.testing.assert_close(
            layer.running_mean.double(), mean * (1 - 0.9**4), rtol=0.05, atol=0.05
        )
        assert layer.num_batches_tracked == 4 and layer.groups is None


def test_an_encoder_without_grouped_batch_norm_encodes_group_by_group(make_batch):
    """An unknown kind of batch norm, and micro batches, which must save memory."""

    class Own(nn.BatchNorm2d):
        pass

    assert not grouped(nn.Sequential(Own(3)))
    method, batch = moco(), make_batch(16, shape=SHAPE)
    directions = [(view, rng) for _, view, rng in method._directions(batch)]
    expected = torch.cat(copy.deepcopy(method)._encode_keys(directions))
    sizes = []
    method.key["backbone"].register_forward_hook(lambda *given: sizes.append(len(given[1][0])))
    method.micro_batch = 4
    torch.testing.assert_close(torch.cat(method._encode_keys(directions)), expected)
    assert sizes == [4] * 8
    method.micro_batch, method._one_pass = 0, False
    torch.testing.assert_close(torch.cat(method._encode_keys(directions)), expected)
    assert sizes == [4] * 16


def test_groups_are_forgotten_after_a_pass_that_failed():
    layer = nn.Sequential(nn.BatchNorm1d(3))
    assert grouped(layer)
    before = copy.deepcopy(layer.state_dict())
    with (
        pytest.raises(ValueError, match="more than 1 value"),
        in_groups(layer, torch.arange(4), 4, in_turns=True),
    ):
        layer(torch.randn(4, 3))
    assert layer[0].groups is None
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_grouped_layers_can_be_synchronised():
    layers = nn.Sequential(nn.BatchNorm1d(3), BatchNormAct2d(3))
    assert grouped(layers)
    names = list(layers.state_dict())
    assert [type(part).__name__ for part in synchronise(layers)] == [
        "SyncBatchNorm",
        "SyncBatchNormAct",
    ]
    assert list(layers.state_dict()) == names


@pytest.mark.parametrize(
    "memory, half, of_keys, of_all",
    [
        (torch.contiguous_format, False, 110, 270),
        (torch.contiguous_format, True, 136, 322),
        (torch.channels_last, False, 212, 470),
        (torch.channels_last, True, 338, 625),
    ],
)
def test_a_step_of_resnet_18_takes_few_operators(make_batch, memory, half, of_keys, of_all):
    """On a GPU each operator is a kernel that Python must launch."""
    method, batch = moco("resnet18", (3, 32, 32), queue=256), make_batch(8, shape=(3, 32, 32))
    method = method.to(memory_format=memory)
    with (
        mock.patch.object(chunked, "DEVICES", ("cpu",)),  # the losses as on a GPU
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        forward = launches(method, batch)
        after = launches(method.after_step, 0.5)
        directions = [(view, rng) for _, view, rng in method._directions(batch)]
        keys = launches(method._encode_keys, directions)
    assert keys.total() <= of_keys, keys
    assert forward.total() <= of_all, forward
    assert after.total() <= 10, after
