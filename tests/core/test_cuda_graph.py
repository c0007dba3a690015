"""The bookkeeping of `core.run.cuda_graph`, on a CPU. Here a replay is a second call of the same
code, which reads its input from the same memory. `twobounds gpu-check --only one_graph` compares
real graphs.
"""

import copy

import pytest
import torch
from torch import nn

from core.batch import Batch, Output
from core.errors import UserError
from core.method import Method
from core.randomness import KeyedRNG
from core.run import checkpoint, config, cuda_graph
from core.run.cuda_graph import WARM, GraphedStep, Numbers, RecordedRNG, assigned, attributes
from scripts.pretrain import main as pretrain
from tests.front_door import ROOT

STEPS, ROWS = WARM + 4, 6
METHODS = {
    "simclr_sprites": (),
    "moco_sprites": ("model.queue=16",),
    "byol_sprites": (),
    "lejepa_sprites": ("model.slices=16",),
    "beta_vae_sprites": ("model.width=8", "model.latent=4"),
    "vlae_mnist": ("model.width=16", "model.latent=4", "model.prior.width=16"),
}


def again(run, stream):
    """Stands for a recording: a replay runs the code again and overwrites the same result."""
    result = torch.empty(0)

    def replay():
        found = run()
        result.resize_(found.shape).copy_(found)

    return replay, result


def batch(method: Method, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    shape = (ROWS, *method.shape)
    views = [torch.randint(256, shape, generator=generator) for _ in range(method.views)]
    index = torch.randint(100, (ROWS,), generator=generator)
    return Batch(
        tuple(x.to(torch.uint8) for x in views), index[:, None] % 3, index, KeyedRNG(5, step)
    )


def trained(method: Method, graphed: bool) -> list[dict[str, torch.Tensor]]:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 1e-5)

    def run(given: Batch) -> dict[str, torch.Tensor]:
        optimizer.zero_grad(set_to_none=True)
        output = method(given)
        output.loss.backward()
        return {"loss": output.loss.detach(), **output.metrics}

    step = GraphedStep(run, method, torch.device("cpu")) if graphed else run
    seen = []
    for number in range(STEPS):
        seen.append(step(batch(method, number)))
        optimizer.step()
        method.after_step(number / STEPS)
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_a_graphed_step_computes_what_an_ordinary_one_computes(name, monkeypatch):
    monkeypatch.setattr(cuda_graph, "record", again)
    small = (
        METHODS[name] if "mnist" in name or "vae" in name else ("model.hidden=16", *METHODS[name])
    )
    run = config.read(ROOT / f"configs/{name}.yaml", ["folder=none", *small])
    method = checkpoint.build_method(run, (1 if "mnist" in name else 3, 28, 28))
    other = copy.deepcopy(method)
    plain, graphed = trained(method, False), trained(other, True)
    for a, b in zip(plain, graphed, strict=True):
        assert list(a) == list(b)
        assert all(torch.equal(a[key].double(), b[key].double()) for key in a)
    for key, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def numbers(step: int) -> Numbers:
    return Numbers(KeyedRNG(3, step, 1, 2), torch.device("cpu"))  # of the second of two processes


def test_each_draw_keeps_its_place_and_gets_the_numbers_of_its_step():
    kept = numbers(0)
    rng = RecordedRNG(kept)
    draws = {
        "uniform": lambda r: r.uniform("a", 4, 2),
        "normal": lambda r: r.normal("a", 4, 3),
        "integers": lambda r: r.integers("a", 9, 4),
        "permutation": lambda r: r.permutation("a", 7),
        "fork": lambda r: r.fork("one").fork("two").uniform("a", 4),
        "common": lambda r: r.fork("one").common().uniform("a", 4),
    }
    places = {name: draw(rng) for name, draw in draws.items()}
    for step in (0, 1, 8):
        kept.refill(KeyedRNG(3, step, 1, 2))
        for name, draw in draws.items():
            assert torch.equal(places[name], draw(KeyedRNG(3, step, 1, 2))), name
            assert draw(rng) is places[name]


def test_common_numbers_are_the_same_on_every_process():
    of = [KeyedRNG(1, 2, rank, 2).fork("x").common().normal("slices", 3, 4) for rank in (0, 1)]
    assert torch.equal(*of)
    assert not torch.equal(of[0], KeyedRNG(1, 2, 1, 2).fork("x").normal("slices", 3, 4))


@pytest.mark.parametrize(
    "use, said",
    [
        (lambda rng: rng.step, "rng.step"),
        (lambda rng: rng.fork("x").seed, "rng.seed"),
        (lambda rng: rng.on("meta"), "on meta"),
    ],
)
def test_what_a_recording_would_freeze_is_refused(use, said):
    with pytest.raises(UserError, match=f"trainer.cuda_graph: .*{said}"):
        use(RecordedRNG(numbers(0)))


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.keys, self.calls, self.old = None, 0, torch.zeros(1)


def test_tensors_of_a_step_are_assigned_again_and_other_state_is_refused():
    module = Module()
    before = attributes(module)
    module.keys = torch.ones(3)
    module.mean.add_(1)
    assert assigned(before, attributes(module)) == {(module, "keys"): module.keys}
    for name, value in (("calls", 1), ("mean", torch.ones(2)), ("old", torch.ones(1))):
        module = Module()
        before = attributes(module)
        setattr(module, name, value)
        with pytest.raises(UserError, match=f"changes Module.{name}, which"):
            assigned(before, attributes(module))


class Kept(nn.Module):
    """A method that leaves a tensor for `after_step`, which removes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.left = nn.Parameter(torch.ones(())), None

    def forward(self, given: Batch) -> Output:
        self.left = given.views[0].mean()
        return Output(self.weight * self.left, {})


def test_a_tensor_that_after_step_removes_is_there_after_each_replay(monkeypatch):
    module = Kept()

    def recorded_once(run, stream):
        result = run()
        return lambda: None, result  # like a graph: no Python code runs in a replay

    monkeypatch.setattr(cuda_graph, "record", recorded_once)
    step = GraphedStep(lambda b: {"loss": module(b).loss}, module, torch.device("cpu"))
    for number in range(WARM + 3):
        image = torch.full((2, 1, 2, 2), float(number))
        step(Batch((image,), torch.zeros(2, 1), torch.arange(2), KeyedRNG(0, number)))
        assert module.left is not None
        module.left = None


@pytest.mark.parametrize(
    "words, said",
    [
        (["trainer.accelerator=cpu"], "needs one CUDA GPU, but this run has 1 x cpu"),
        (["trainer.compile=reduce-overhead"], "cuda_graph: compile=reduce-overhead"),
        (["trainer.precision=16-mixed"], "cuda_graph: 16-mixed"),
        (["trainer.strategy=ddp"], "cuda_graph: strategy ddp"),
        (["optim.micro_batch=8"], "micro batches"),
    ],
)
def test_what_does_not_go_with_a_graph_is_one_line(words, said, tmp_path, capsys):
    path = ROOT / "configs/demo_simclr.yaml"
    with pytest.raises(SystemExit) as stopped:
        pretrain([str(path), f"folder={tmp_path / 'run'}", "trainer.cuda_graph=true", *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
