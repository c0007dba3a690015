"""How stale MoCo's queue is: the place of its oldest keys, their difference from the present
encoder's keys of the same views, and the effect on the loss.
"""

import copy

import pytest
import torch
from lightning_fabric import Fabric

from contrastive.moco import MoCo, MoCoConfig
from contrastive.queue import KeyQueue
from contrastive.simclr import SimCLR, SimCLRConfig
from core.data.datasets import open_source
from core.data.source import train_sampler
from core.data.sprites import SpritesConfig
from core.information.losses import queue_loss
from core.run import checkpoint, config
from core.run.optim import OptimConfig
from core.run.train import train
from core.run.validation import Validation

SHAPE = (3, 8, 8)


def tiny(**options) -> MoCo:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MoCo(
            MoCoConfig(
                **{"queue": 256, "hidden": 16, "projection": 8, "shuffle_groups": 2, **options}
            ),
            SHAPE,
        ).train()


def trained(method: MoCo, make_batch, steps: int) -> list:
    """Take large steps on random images; returns the batches. 16 images a step give 32 keys if the
    loss is symmetric.
    """
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.3)
    batches = [make_batch(16, shape=SHAPE, step=step) for step in range(steps)]
    for batch in batches:
        optimizer.zero_grad()
        method(batch).loss.backward()
        optimizer.step()
        method.after_step(0.5)
    return batches


def drift(method: MoCo, batches: list) -> float:
    """1 - mean cosine, by torch's own function, of the oldest keys and the same keys encoded
    now.
    """
    keys, age = method.queue.oldest(16 * method.keys_per_image)
    now = method.encode_again([batches[-age]])[-len(keys) :]
    return 1 - torch.nn.functional.cosine_similarity(keys.double(), now.double()).mean().item()


@pytest.mark.parametrize(
    "length, steps, age, left",  # 32 keys a step
    [
        (256, 0, 0, 0),
        (256, 3, 3, 32),
        (256, 20, 8, 32),
        (100, 20, 4, 4),
        (10, 2, 1, 10),
        (32, 5, 1, 32),
        (33, 5, 2, 1),
    ],
)
def test_the_oldest_keys_are_the_tail_of_the_step_that_made_them(length, steps, age, left):
    queue, made = KeyQueue(length, 3), []
    for step in range(steps):
        made.append(torch.full((32, 3), float(step)) + torch.arange(32)[:, None] / 100)
        queue.enqueue(made[-1])
    keys, found = queue.oldest(32)
    assert (found, len(keys)) == (age, left)
    if steps:
        assert torch.equal(keys, made[-age][32 - left :])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("length", [256, 100, 10])
@pytest.mark.parametrize("steps", [1, 5])
def test_keys_of_an_unchanged_encoder_are_equal_bit_for_bit(make_batch, symmetric, length, steps):
    """With momentum 1 the query encoder changes and the key encoder does not. The queue is full or
    not, and longer than a step or not.
    """
    method = tiny(momentum=1.0, momentum_end=1.0, symmetric=symmetric, queue=length)
    batches = trained(method, make_batch, steps)
    keys, age = method.queue.oldest(16 * method.keys_per_image)
    assert torch.equal(method.encode_again([batches[-age]])[-len(keys) :], keys)


def test_re_encoding_takes_the_same_views_and_the_same_groups(make_batch):
    method = tiny(momentum=1.0, momentum_end=1.0)
    (batch,) = trained(method, make_batch, 1)
    keys, _ = method.queue.oldest(32)
    other_groups = batch._replace(rng=make_batch(16, shape=SHAPE, step=7).rng)
    other_views = batch._replace(views=batch.views[::-1])
    for wrong in (other_groups, other_views):
        assert not torch.allclose(method.encode_again([wrong]), keys, atol=1e-3)


def test_drift_grows_with_the_age_of_a_key_and_the_speed_of_its_encoder(make_batch):
    def after(momentum: float, length: int) -> float:
        method = tiny(momentum=momentum, momentum_end=momentum, queue=length)
        return drift(method, trained(method, make_batch, 10))

    young, old, slow = after(0.5, 32), after(0.5, 320), after(0.99, 320)
    assert 0 < young < old and 0 < slow < old / 2


@pytest.mark.parametrize("images", [2, 3, 5, 7])
def test_every_group_of_keys_has_two_images_or_more(make_batch, images):
    method = tiny(shuffle_groups=4)
    method(make_batch(images, shape=SHAPE)).loss.backward()
    assert all(p.grad.isfinite().all() for p in method.query.parameters() if p.grad is not None)


@pytest.mark.parametrize("training", [True, False])
def test_re_encoding_changes_neither_state_nor_mode(make_batch, training):
    method = tiny()
    batches = trained(method, make_batch, 3)
    method.train(training)
    before = copy.deepcopy(method.state_dict())
    method.encode_again([batches[0]])
    after = method.state_dict()
    assert before.keys() == after.keys() and all(
        torch.equal(before[key], after[key]) for key in before
    )
    assert all(module.training is training for module in method.modules())


def small_run(folder, **options) -> config.RunConfig:
    """16 images a step, 6 steps an epoch; 32 keys a step into a queue of 100, so that the oldest 4
    keys are 4 steps old.
    """
    return config.RunConfig(
        method="contrastive.moco.MoCo",
        model=MoCoConfig(**{"queue": 100, "hidden": 16, "projection": 8, **options}),
        folder=str(folder),
        data=config.DataConfig(sprites=SpritesConfig(train=100, validation=64, test=64)),
        optim=OptimConfig(batch_size=16, lr=0.01, warmup_epochs=0),
    )


def after_steps(run: config.RunConfig, steps: int) -> tuple[MoCo, Validation]:
    """A method after `steps` steps of the real loop, and the validation of its run."""
    source = open_source(run.data, "train", run.seed)
    method = checkpoint.build_method(run, source.shape)
    assert isinstance(method, MoCo)
    state = checkpoint.State(
        run, method, torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(state.method, state.optimizer)
    batches = source.batches(train_sampler(len(source), 16, run.seed, 0, steps), 2)
    for _ in train(fabric, model, optimizer, state, batches, 20, 6):
        pass
    return method, Validation(run, torch.device("cpu"), source)


@pytest.mark.parametrize("steps, age", [(1, 1), (3, 3), (9, 4)])
def test_validation_makes_the_views_of_the_oldest_keys_again(tmp_path, steps, age):
    method, validation = after_steps(small_run(tmp_path, momentum=1.0, momentum_end=1.0), steps)
    scores = validation(method, steps)
    assert scores["val/queue_drift"] == 0
    assert (scores["val/queue_age_steps"], scores["val/queue_age_epochs"]) == (age, age / 6)
    assert validation(method, steps + 1)["val/queue_drift"] > 0.01  # the views of another step
    run = small_run(tmp_path, momentum=0.5, momentum_end=0.5)
    moving, validation = after_steps(run, steps)
    source = open_source(run.data, "train", run.seed)
    batches = list(source.batches(train_sampler(len(source), 16, run.seed, 0, steps), 2))
    found = validation(moving, steps)["val/queue_drift"]
    assert found == pytest.approx(drift(moving, batches), rel=1e-2) and found > 1e-4


def test_validation_does_not_change_the_run_and_an_empty_queue_has_no_age(tmp_path):
    method, validation = after_steps(small_run(tmp_path), 2)
    before = copy.deepcopy(method.state_dict())
    scores = validation(method, 2)
    assert (
        all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
        and method.training
    )
    assert {
        "val/alignment",
        "val/codes/alignment",
        "val/codes/uniformity",
        "val/features/effective_rank",
        "val/features/deviation",
    } <= scores.keys()
    assert not any("queue" in key for key in validation(after_steps(small_run(tmp_path), 0)[0], 0))
    assert not any(
        "queue" in key
        for key in validation(SimCLR(SimCLRConfig(hidden=16, projection=8), (3, 32, 32)), 2)
    )


def test_keys_of_several_processes_are_made_again_in_the_order_of_the_queue(tmp_path):
    """Two processes with 8 images and separate statistics each: the queue holds each direction's
    keys in rank order.
    """
    run = small_run(tmp_path, momentum=1.0, momentum_end=1.0)
    run.trainer.sync_batchnorm = False
    method, alone = after_steps(run, 0)
    source, keys = alone.source, []
    for rank in range(2):
        method(next(iter(source.batches(train_sampler(100, 16, 0, 0, 1, rank, 2), 2))))
        assert method._new_keys is not None
        keys.append(method._new_keys.chunk(2))
    method.queue.enqueue(
        torch.cat([keys[rank][direction] for direction in range(2) for rank in range(2)])
    )
    assert Validation(run, torch.device("cpu"), source, world=2)(method, 1)["val/queue_drift"] == 0
    assert (
        alone(method, 1)["val/queue_drift"] > 1e-4
    )  # one process shuffles and groups all 16 together


def test_a_stale_queue_moves_the_training_number_away_from_the_one_with_fresh_keys(make_batch):
    """log(K + 1) - L against the queue, and against the same keys encoded now: different if keys
    drift, equal if they do not.
    """

    def gap(momentum: float) -> float:
        method = tiny(momentum=momentum, momentum_end=momentum, queue=320)
        batches = trained(method, make_batch, 10)
        fresh = torch.cat(
            [method.encode_again([batch]) for batch in batches]
        )  # 320 keys: the whole queue
        probe = make_batch(64, shape=SHAPE, step=99)
        query, key = method.eval().codes(*probe.views)
        return abs(
            queue_loss(query, key, method.queue.keys, 0.1) - queue_loss(query, key, fresh, 0.1)
        ).item()

    assert gap(1.0) == 0
    assert gap(0.5) > 0.1
