"""Checkpoints that are refused, each with one clear line."""

import mmap
import os
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.files import write_atomically
from core.run import archive, checkpoint, config
from core.run.optim import OptimConfig, build_optimizer, warmup_cosine
from core.run.resumable import differences

ROOT = Path(__file__).parents[2]
SMALL = ["model.hidden=16", "model.projection=8"]


@pytest.fixture
def saved(tmp_path) -> Path:
    run = config.read(ROOT / "configs/simclr_sprites.yaml", SMALL)
    method = checkpoint.build_method(run, (3, 32, 32))
    checkpoint.save(
        tmp_path / "last.ckpt",
        checkpoint.State(run, method, build_optimizer(method, run.optim), step=7),
    )
    return tmp_path / "last.ckpt"


def change(path: Path, edit) -> None:
    entries = torch.load(path, weights_only=True)
    edit(entries)
    torch.save(entries, path)


def test_a_method_is_restored_from_its_file_alone(saved):
    method, run, step, digest = checkpoint.load_method(saved)
    assert digest == checkpoint.digest(saved)
    assert (step, run.model.hidden, method.training) == (7, 16, False)
    for key, value in checkpoint.build_method(run, (3, 32, 32)).state_dict().items():
        torch.testing.assert_close(method.state_dict()[key], value, rtol=0, atol=0)


def test_a_saved_state_is_restored(saved):
    run = config.read(ROOT / "configs/simclr_sprites.yaml", SMALL)
    made = checkpoint.build_method(run, (3, 32, 32))
    kept = checkpoint.State(run, made, build_optimizer(made, run.optim), 7, 0.625, "an-id")
    checkpoint.save(saved, kept)
    other = checkpoint.build_method(run, (3, 32, 32))
    state = checkpoint.State(run, other, build_optimizer(other, run.optim))
    checkpoint.restore(saved, checkpoint.read(saved), state)
    assert (state.step, state.best, state.wandb_id) == (7, 0.625, "an-id")


# keys that change what is computed, each with another value
COMPUTED = [
    "seed=5", "model.temperature=0.3", "data.augment=crop", "data.sprites.train=1000",
    "data.validation=77", "data.bits=12", "optim.name=sgd", "optim.lr=0.5", "optim.batch_size=64",
    "optim.micro_batch=32", "optim.epochs=9", "optim.warmup_epochs=0", "optim.weight_decay=0.5",
    "optim.momentum=0.5", "optim.clip=1", "trainer.precision=64-true", "trainer.compile=true",
]  # fmt: skip
# and keys that do not
TOLD = [
    "folder=elsewhere", "wandb.mode=offline", "resume=true", "data.root=x", "data.workers=3",
    "data.download=true", "data.memory=3", "data.changed=accept", "data.timeout=9", "data.skip=0.1",
    "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2", "trainer.strategy=fsdp",
    "trainer.profile=true", "trainer.log_every=3", "trainer.save_every=3", "trainer.keep_last=3",
    "trainer.keep_epochs=1", "trainer.timeout=99",
]  # fmt: skip


@pytest.mark.parametrize("override", COMPUTED + TOLD)
def test_a_run_resumes_with_the_same_config_in_any_place(override, saved):
    run = config.read(ROOT / "configs/simclr_sprites.yaml", [*SMALL, override])
    method = checkpoint.build_method(run, (3, 32, 32))
    optimizer = torch.optim.AdamW(method.parameters())
    there, here = (config.to_dict(run) for run in (checkpoint.load_method(saved).run, run))
    key = override.partition("=")[0]
    assert set(differences(there, here)) == {key} - {"folder"}, "the override is another value"
    state = checkpoint.State(run, method, optimizer)
    if override in COMPUTED:
        with pytest.raises(UserError, match=f"another config \\({key} is "):
            checkpoint.restore(saved, checkpoint.read(saved), state)
    else:
        state.optimizer = build_optimizer(method, run.optim)
        checkpoint.restore(saved, checkpoint.read(saved), state)
        assert state.step == 7


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda e: e["method"].pop("head.layers.0.weight"), ["1 missing", "head.layers.0.weight"]),
        (lambda e: e["method"].update({"extra": torch.zeros(1)}), ["1 unexpected", "extra"]),
        (
            lambda e: e["method"].update({"head.layers.0.weight": torch.zeros(3)}),
            ["head.layers.0.weight", "[3]"],
        ),
        (lambda e: e.pop("step"), ["missing", "step"]),
        (lambda e: e.update(format="other/9"), ["twobounds/1"]),
        (lambda e: e["config"].update(method="os.system"), ["os.system", "not allowed"]),
        (lambda e: e["config"].update(method="contrastive.simclr.Tensor"), ["Tensor"]),
        (lambda e: e["config"]["model"].update(temperature=-1.0), ["temperature"]),
        (lambda e: e["config"].update(surprise=1), ["surprise"]),
        (lambda e: e.update(shape=[3, "x", 32]), ["shape"]),
        (lambda e: e.update(config="x"), ["config"]),
    ],
)
def test_a_changed_checkpoint_is_refused(saved, edit, words):
    change(saved, edit)
    with pytest.raises(UserError) as error:
        checkpoint.load_method(saved)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_digest_is_of_the_bytes_that_were_loaded(saved, monkeypatch):
    """A training run replaces the file as soon as it has been read."""
    first, weights = checkpoint.digest(saved), checkpoint.read(saved)["method"]
    build = checkpoint.build_method

    def replaced(*given):
        change(saved, lambda entries: entries["method"]["head.layers.0.weight"].fill_(0.5))
        return build(*given)

    monkeypatch.setattr(checkpoint, "build_method", replaced)
    found = checkpoint.load_method(saved)
    assert found.digest == first != checkpoint.digest(saved)
    for key, value in found.method.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_refused(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_method(saved)


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_a_pickle_bomb_does_not_go_off(tmp_path, write):
    write({"format": checkpoint.FORMAT, "config": Bomb(tmp_path / "boom")}, tmp_path / "bomb.ckpt")
    with pytest.raises(UserError):
        checkpoint.load_method(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "boom").exists()


def test_a_failed_write_leaves_the_old_checkpoint(saved):
    before = saved.read_bytes()

    def torn(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_atomically(saved, torn)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    "name, lr", [("adamw", 0.05), ("adamax", 0.05), ("sgd", 0.05), ("lars", 5.0)]
)  # lars: the step is a thousandth of |w| times lr
def test_every_optimiser_lowers_a_quadratic_and_spares_biases(name, lr):
    layer = torch.nn.Linear(4, 4)
    optimizer = build_optimizer(
        layer, OptimConfig(name=name, lr=lr, batch_size=256, weight_decay=0.01)
    )
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]
    x, losses = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), []
    for _ in range(100):
        loss = (layer(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_warmup_cosine_is_linear_then_half_a_cosine():
    assert [warmup_cosine(s, 4, 12) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert warmup_cosine(4, 4, 12) == pytest.approx(1)
    assert warmup_cosine(8, 4, 12) == pytest.approx(0.5)
    assert warmup_cosine(12, 4, 12) == pytest.approx(0)
    assert OptimConfig(lr=0.3, batch_size=1024).scaled_lr == pytest.approx(1.2)


@pytest.mark.parametrize(
    "offset, size, stride, fits",
    [
        (0, (4,), (1,), True),
        (1, (3,), (1,), True),
        (1, (4,), (1,), False),
        (2, (2, 2), (1, 2), False),
        (0, (2, 2), (2, 1), True),
        (4, (1,), (1,), False),
    ],
)
def test_a_tensor_ends_inside_its_record(offset, size, stride, fits):
    content = mmap.mmap(-1, 64)
    content[:16] = torch.arange(4.0).numpy().tobytes()
    builder = archive.Builder(content, {"a/data/0": archive.Record(0, 16)}, "a/data/")
    storage = archive.Storage("0", torch.float32, 4)
    if not fits:
        with pytest.raises(archive.Broken, match="larger than its record"):
            builder.build(archive.Declared(storage, offset, size, stride), 0)
        return
    made = builder.build(archive.Declared(storage, offset, size, stride), 0)
    assert torch.equal(made, torch.arange(4.0).as_strided(size, stride, offset))


def test_a_device_a_pipe_or_a_folder_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    (link := tmp_path / "link").symlink_to(pipe)
    (folder := tmp_path / "folder").mkdir()
    called: list[Path] = []
    for path, kind in ((pipe, "device or pipe"), (link, "device or pipe"), (folder, "folder")):
        with pytest.raises(UserError, match=f"is a {kind}, not a file"):
            write_atomically(path, called.append)
    assert pipe.is_fifo() and link.is_symlink() and folder.is_dir() and not called


@pytest.mark.parametrize(
    "size, stride, repeats",
    [
        ((2, 2), (1, 1), True),
        ((2, 2), (0, 1), True),
        ((2, 2), (2, 0), True),
        ((2, 1), (2, 0), False),
        ((2, 2), (1, 2), False),
        ((1, 3), (1, 1), False),
    ],
)
def test_a_tensor_that_repeats_its_numbers_is_refused(size, stride, repeats, tmp_path):
    """A few bytes could claim a tensor of any size, and an optimiser would write one number twice.
    `torch.save` keeps strides, so the files are its own.
    """
    one = torch.arange(4.0).as_strided(size, stride)
    torch.save({"one": one}, tmp_path / "a.ckpt")
    if repeats:
        with pytest.raises(archive.Foreign, match="repeats its numbers"):
            archive.read(tmp_path / "a.ckpt")
        return
    assert torch.equal(archive.read(tmp_path / "a.ckpt")[0]["one"], one)


def test_a_record_inside_of_another_record_is_refused(tmp_path):
    """Each checksum is right, but the bytes of one record are those of the other one, too."""
    path, content = tmp_path / "a.zip", b"x" * 8
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    inner = path.read_bytes().partition(b"PK\1\2")[0]  # a local header and its data
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data/0", inner)
        nested = zipfile.ZipInfo("archive/data.pkl")
        nested.CRC, nested.file_size, nested.compress_size = zlib.crc32(content), 8, 8
        nested.header_offset = 30 + len("archive/data/0")
        file.filelist.append(nested)
    with zipfile.ZipFile(path) as file:
        assert file.read("archive/data.pkl") == content
    with pytest.raises(archive.Broken, match="data.pkl is not where it should be"):
        archive.read(path)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ([3, 4096, 4096], True),
        ([1, 3 * 4096, 4096], True),
        ([3, 4096, 4097], False),
        ([4, 4096, 4096], False),
        ([3, 0, 8], False),
        ([3, 8], False),
        ([3, 8.0, 8], False),
    ],
)
def test_an_image_of_a_checkpoint_has_a_limited_number_of_values(shape, fits):
    """All sides together, because a network may take memory for each value."""
    assert checkpoint.ENTRIES["shape"][0](shape) == fits
