"""MoCo: a trained encoder gives queries, a slow copy of it gives keys, and a queue holds old keys.

He et al.: Momentum Contrast, 2020; Chen et al.: MoCo v2, 2020 (MLP head, stronger views, cosine
schedule). B = images on this process, K = queue length, D = features, P = projection dimensions.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive.config import ContrastiveConfig
from contrastive.momentum import follow, slow_copy
from contrastive.queue import KeyQueue
from core.batch import Batch, Encoded, Output, at_least_float32
from core.checks import at_least, share
from core.distributed import gather, rank, world
from core.information.geometry import alignment
from core.information.losses import in_batch_loss, queue_loss
from core.method import Context, Method
from core.networks.backbones import Backbone
from core.networks.batchnorm import grouped, in_groups, synchronised
from core.networks.heads import ProjectionHead
from core.randomness import KeyedRNG


@dataclass
class MoCoConfig(ContrastiveConfig):
    # number K of keys in the queue; the queue is too long if val/queue_drift is large
    queue: int = 4096
    # momentum m at the start: in each step, key encoder <- m key encoder + (1 - m) query encoder
    momentum: float = 0.99
    momentum_end: float = 0.99  # m at the end; in between, m follows half a cosine
    symmetric: bool = True  # each view is used once as query and once as key
    # number of random groups into which the keys of a batch are divided. Each group has its own
    # batch statistics, so batch norm does not show which key belongs to which query
    shuffle_groups: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, queue=1, shuffle_groups=1)
        share(self, "momentum", "momentum_end")
        if self.momentum > self.momentum_end:
            raise ValueError(
                "momentum_end: the key encoder must slow down towards the end of training, but"
                f" {self.momentum_end:g} is below momentum, {self.momentum:g}"
            )


class MoCo(Method):
    """Compares queries with queued keys. Probes read the features of the query backbone."""

    Config = MoCoConfig

    def __init__(self, config: MoCoConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.temperature = config.temperature
        backbone = Backbone(config.backbone, shape, config.stem)
        self.query = nn.ModuleDict(
            {
                "backbone": backbone,
                "head": ProjectionHead(backbone.dim, config.hidden, config.projection, False),
            }
        )
        self._one_pass = grouped(self.query)
        self.key = slow_copy(self.query)
        self.queue = KeyQueue(config.queue, config.projection)
        self._new_keys: Tensor | None = None  # the keys of the current step

    def forward(self, batch: Batch) -> Output:
        directions = list(self._directions(batch))
        keys = self._encode_keys([(view, rng) for _, view, rng in directions])
        queries = self._encode_queries([view for view, _, _ in directions])
        in_batch = [
            in_batch_loss(query, key, self.temperature)
            for query, key in zip(queries, keys, strict=True)
        ]
        loss = queue_loss(
            torch.cat(queries), torch.cat(keys), self.queue.keys, self.temperature
        )  # reads the queue once
        if self.training:
            self._new_keys = torch.cat([gather(key) for key in keys])
        candidates, n = len(self.queue.keys) + 1, len(batch.index) * world()
        metrics = {
            "infonce": loss.detach(),
            # no bound: the queued keys come from older encoders
            "train_bound": math.log(candidates) - loss.detach(),
            # this has the form of a valid bound: all keys come from the present key encoder
            "in_batch_bound": math.log(n) - torch.stack(in_batch).mean(),
            "alignment": alignment(queries[-1].detach(), keys[-1]),
        }
        return Output(loss, metrics)

    @property
    def keys_per_image(self) -> int:
        return 2 if self.config.symmetric else 1

    def _directions(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, KeyedRNG]]:
        """(query view, key view, random numbers), once for each key of an image."""
        first, second = batch.views[:2]
        for number, (query_view, key_view) in enumerate(
            [(first, second), (second, first)][: self.keys_per_image]
        ):
            yield query_view, key_view, batch.rng.fork(f"direction{number}")

    def _encode_queries(self, views: list[Tensor]) -> list[Tensor]:
        """Unit-length queries [B, P] of the views [B, C, H, W] of each direction. Each view has its
        own batch statistics. If torch's kernel allows it, one pass encodes both views.
        """
        backbone = self.query["backbone"]
        plain = self._one_pass and self.query.training and not synchronised(self.query)
        in_rows = all(p.is_contiguous() for p in backbone.parameters())  # not channels_last
        compiled = getattr(backbone, "_compiled_call_impl", None) is not None
        if len(views) == 1 or not plain or not in_rows or compiled or self.micro_batch:

            def encode(view: Tensor) -> tuple[Tensor, ...]:
                return (_encode(self.query, view),)

            return [self.in_micro_batches(encode, view)[0] for view in views]
        turns = torch.stack(views, 1).flatten(0, 1)  # alternating views of an image
        number = torch.arange(len(turns), device=turns.device) % len(views)
        with in_groups(self.query, number, len(views), in_turns=True):
            codes = _encode(self.query, turns)
        return list(codes.unflatten(0, (-1, len(views))).unbind(1))

    @torch.no_grad()
    def _encode_keys(self, directions: list[tuple[Tensor, KeyedRNG]]) -> list[Tensor]:
        """Unit-length keys [B, P] of the views [B, C, H, W] of each direction, in one pass if
        possible. The keys of a direction are divided into random groups with their own batch
        statistics. With two groups or more, the statistics of a query and of its key come from
        different sets of images (section 3.3 of the MoCo paper).
        """
        views = [view for view, _ in directions]
        if not self.key.training:
            return [_encode(self.key, view) for view in views]
        together = synchronised(self.key)
        # rows of each direction in the order of their groups, [directions, n]; n = rows of this
        # process or, with synchronised batch norm, of all processes
        order = torch.stack([self._order(len(view), rng, together) for view, rng in directions])
        n = order.shape[1]
        groups = min(self.config.shuffle_groups, max(1, n // 2))
        if not together and (self.micro_batch or not self._one_pass):
            return [
                _group_by_group(self.key, view, rows.tensor_split(groups))
                for view, rows in zip(views, order, strict=True)
            ]
        x, count = torch.cat(views), len(views) * groups
        direction = torch.arange(len(views), device=order.device)[:, None]
        if not together and n % groups == 0:
            # the groups take turns: group 0, 1, ..., 0, 1, ...
            rows = (order + n * direction).view(count, -1).T.flatten()
            turn = torch.arange(len(rows), device=rows.device) % count
            with in_groups(self.key, turn, count, in_turns=True):
                shuffled = _encode(self.key, x[rows])
            keys = torch.empty_like(shuffled).index_copy_(0, rows, shuffled)
        else:  # with several processes, each process holds rows of every group
            place = torch.arange(n, device=order.device)
            # the first n % groups groups have one more row, as in tensor_split
            group = torch.maximum(place // (n // groups + 1), (place - n % groups) // (n // groups))
            number = torch.empty_like(order).scatter_(1, order, group.expand_as(order))
            number = (number + groups * direction).chunk(world(), 1)[rank()]
            with in_groups(self.key, number.flatten(), count):
                keys = _encode(self.key, x)
        return list(keys.chunk(len(views)))

    def _order(self, rows: int, rng: KeyedRNG, together: bool) -> Tensor:
        """The rows (of all processes if `together`) in random order; unchanged for one group."""
        if self.config.shuffle_groups == 1:
            return torch.arange(rows * (world() if together else 1), device=self.queue.keys.device)
        places = rng.uniform("shuffle", rows)
        return torch.argsort(gather(places) if together else places)

    @torch.no_grad()
    def encode_again(self, parts: list[Batch]) -> Tensor:
        """The keys of an earlier step, encoded by the present key encoder, in the queue's order.

        `parts` holds the batch of each process in rank order, or one global batch if batch norm is
        synchronised. Views and shuffled groups are those of the earlier step. Returns
        [keys of a step, P]; running statistics and mode do not change.
        """
        was_training = self.key.training
        buffers = {name: buffer.clone() for name, buffer in self.key.named_buffers()}
        self.key.train()
        try:
            made = [
                self._encode_keys([(view, rng) for _, view, rng in self._directions(part)])
                for part in parts
            ]
        finally:
            self.key.train(was_training)
            for name, buffer in self.key.named_buffers():
                buffer.copy_(buffers[name])
        return torch.cat([keys for direction in zip(*made, strict=True) for keys in direction])

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the key encoder towards the query encoder (`follow`), and enqueue this step's keys
        of all processes in rank order.
        """
        config = self.config
        follow(self.key, self.query, config.momentum, progress, config.momentum_end)
        if self._new_keys is not None:
            self.queue.enqueue(self._new_keys)
            self._new_keys = None

    def monitors(self, context: Context) -> dict[str, float]:
        """The age of the oldest queued keys, and the drift of the key encoder since then:

            queue_drift = 1 - E cos(queued key, key of the same view now)

        Old views are not stored, but computed again. The result is empty if the queue holds no key
        of training.
        """
        keys, age = self.queue.oldest(context.batch_size * self.keys_per_image)
        if age == 0:
            return {}
        now = self.encode_again(context.trained_on(context.step - age))[-len(keys) :]
        return {
            "queue_age_epochs": age / context.steps_per_epoch,
            "queue_age_steps": float(age),
            "queue_drift": alignment(keys, now).item() / 2,
        }

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        return _encode(self.query, query_view), _encode(self.key, key_view)

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        features = self.query["backbone"](x)
        if key:
            return Encoded(features, _encode(self.key, x))
        return Encoded(features, F.normalize(at_least_float32(self.query["head"](features)), dim=1))

    def embed(self, x: Tensor) -> Tensor:
        return self.query["backbone"](x)


def _encode(encoder: nn.ModuleDict, x: Tensor) -> Tensor:
    return F.normalize(at_least_float32(encoder["head"](encoder["backbone"](x))), dim=1)


def _group_by_group(encoder: nn.ModuleDict, view: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Encode the keys group by group, which needs less memory and works for any network."""
    rows = torch.cat(list(groups))
    shuffled = torch.cat([_encode(encoder, view[group]) for group in groups])
    return torch.empty_like(shuffled).index_copy_(0, rows, shuffled)
