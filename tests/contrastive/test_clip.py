"""CLIP: its losses against closed forms, its tokenizer, and its messages for bad input."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from contrastive.clip import CLIP, CLIPConfig
from core.batch import Batch
from core.data.captioned_sprites import CaptionedSprites, CaptionedSpritesConfig
from core.data.source import eval_sampler
from core.errors import UserError
from core.information import sigmoid as kernel
from core.information.sigmoid import sigmoid_loss
from core.method import Context, PairCritic, TextCritic
from core.networks.tokenizer import Malformed, Tokenizer
from core.randomness import KeyedRNG
from core.run import checkpoint
from tests.bitwise import same
from tests.in_process import Answer, call

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.captioned_sprites.train=128",
    "data.captioned_sprites.validation=64",
    "data.captioned_sprites.test=64",
    "model.width=16",
    "model.layers=1",
    "model.heads=2",
    "model.projection=8",
    "model.vocabulary=128",
    "optim.batch_size=16",
    "optim.epochs=2",
    "trainer.save_every=4",
    "trainer.log_every=2",
    "trainer.validate_every=1",
    "trainer.accelerator=cpu",
    "wandb=disabled",
]
SIZES = {"vocabulary": 128, "context": 16, "width": 16, "layers": 1, "heads": 2, "projection": 8}


def train(folder: Path, *more: str) -> Answer:
    return call(str(ROOT / "configs/clip_sprites.yaml"), f"folder={folder}", *SMALL, *more)


def source(split: str = "train", **keys: object) -> CaptionedSprites:
    keys = {"train": 64, "validation": 32, "test": 64} | keys
    return CaptionedSprites(CaptionedSpritesConfig(**keys), split, 0)


def taught(**keys: object) -> CLIP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = CLIP(CLIPConfig(**(SIZES | keys)), (3, 32, 32))
    method.learn_words(source().captions(64))
    return method


def batch(n: int = 32) -> Batch:
    return next(iter(source().batches(eval_sampler(n, 0, n), 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile", [4, 5, 1024])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_sigmoid_loss_is_its_closed_form(dtype, tile, scale, monkeypatch):
    """Value and gradients, for tiles that cut the batch evenly, unevenly and not at all."""
    monkeypatch.setattr(kernel, "ON_CPU", tile)
    rng = torch.Generator().manual_seed(1)
    codes = [F.normalize(torch.randn(13, 6, generator=rng), dim=1) for _ in range(2)]
    given = [(scale * codes[0]).to(dtype), codes[1].to(dtype), torch.tensor([-2.0], dtype=dtype)]
    found, exact = (
        [x.to(kind).clone().requires_grad_() for x in given] for kind in (dtype, torch.float64)
    )
    scores = exact[0] @ exact[1].T + exact[2]
    signs = 2 * torch.eye(13, dtype=torch.float64) - 1
    expected = -F.logsigmoid(signs * scores).sum() / 13
    loss = sigmoid_loss(*found)
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    )
    torch.testing.assert_close(loss.double(), expected, **tolerance)
    for a, b in zip(
        torch.autograd.grad(loss, found), torch.autograd.grad(expected, exact), strict=True
    ):
        torch.testing.assert_close(a.double(), b, **tolerance)


def test_the_loss_is_the_mean_of_two_cross_entropies_with_the_learned_temperature():
    method, given = taught().double(), batch()
    given = given._replace(views=(given.views[0].double() / 255,))
    made = method(given)
    image = method.encode(given.views[0]).codes
    text = method.encode_text(given.text).codes
    scores, own = image @ text.T / method.temperature, torch.arange(32)
    expected = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    assert isinstance(method, TextCritic) and isinstance(method, PairCritic)
    torch.testing.assert_close(made.loss, expected, rtol=1e-9, atol=0)
    bound = math.log(32) - expected.item()
    assert made.metrics["in_batch_bound"].item() == pytest.approx(bound, rel=1e-9)
    made.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_micro_batches_change_neither_the_loss_nor_its_gradient(loss):
    """In eval mode, because batch norm would see the micro batches."""
    method, given, found = taught(loss=loss).double().eval(), batch(), []
    given = given._replace(views=(given.views[0].double() / 255,))
    for size in (0, 5):
        method.micro_batch = size
        method.zero_grad()
        loss = method(given).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in method.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_temperature_is_kept_above_a_hundredth():
    method = taught()
    method.log_scale.data.fill_(9.0)
    method.after_step(0.5)
    assert method.temperature == pytest.approx(0.01)
    method.log_scale.data.fill_(-1.0)
    method.after_step(0.5)
    assert method.temperature == 1


def test_what_follows_the_end_of_a_caption_changes_nothing():
    method = taught().double()
    short, long = "a red disc", "top left: red triangle, small, on a thing at the top left there"
    alone = method.encode_text([short]).codes
    torch.testing.assert_close(
        method.encode_text([short, long]).codes[:1], alone, rtol=1e-9, atol=1e-12
    )
    assert not torch.allclose(method.encode_text(["a disc red"]).codes, alone)


@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_a_tokenizer_survives_its_bytes_and_knows_its_captions(kind):
    captions = list(source().captions(64))
    made = Tokenizer.learn(captions, kind, 400)
    stored = made.to_bytes(400)
    again = Tokenizer.from_bytes(stored, 400)
    for one in (made, again):
        ids = one.ids([*captions, "A RED Disc"], 32)
        assert ids.unknown == 0 and ids.cut == 0 and ids.tokens.max() < 400
        assert torch.equal(ids.tokens, made.ids([*captions, "a red disc"], 32).tokens)
    assert len(stored) == 64 * 400 and again.to_bytes(400) == stored
    strange = made.ids(["zebra \U0001f993"], 32)
    assert strange.unknown == (1.0 if kind == "words" else 0.0)


def test_a_long_caption_is_cut_and_counted_and_ten_megabytes_take_no_time():
    made = Tokenizer.learn(["a red disc"], "words", 16)
    ids = made.ids(["a red disc", "a " * 40, "red" * 10**6 * 4, "[END] a"], 8)
    assert ids.cut == 2 and ids.tokens.shape == (4, 8) and ids.tokens[1, -1] == 2
    assert ids.tokens[3].tolist()[:3] == [1, 3, 3] or 2 not in ids.tokens[3, 1:3].tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "regex"},
        {"tokens": ["a", "a"]},
        {"tokens": ["[END]"]},
        {"tokens": "abc"},
        {"tokens": [str(i) for i in range(500)]},
        {"merges": [[0, 99]]},
        {"merges": [[0, 1]]},
        {"more": 1},
        None,
    ],
)
def test_bytes_that_are_no_tokenizer_are_refused(change):
    made = {"kind": "bytes", "tokens": ["a", "b"], "merges": []}
    held = "[" * 5000 if change is None else json.dumps(made | change)
    with pytest.raises(Malformed):
        Tokenizer.from_bytes(held.encode().ljust(64 * 100), 100)


def test_a_run_resumes_bitwise_and_its_checkpoint_holds_its_words(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole).code == 0
    # the first of the two epochs was saved; the rest is trained again
    assert train(parts, "trainer.keep_epochs=1").code == 0
    for name in ("last.ckpt", "last-1.ckpt"):
        (parts / name).unlink()
    (parts / "epoch-1.ckpt").rename(parts / "last.ckpt")
    (parts / "best.ckpt").unlink()
    assert checkpoint.read(parts / "last.ckpt")["step"] == 8
    answer = train(parts, "trainer.keep_epochs=1", "--resume")
    assert answer.code == 0, answer.err
    a, b = (checkpoint.read(folder / "last.ckpt") for folder in (whole, parts))
    assert a["step"] == b["step"] == 16
    assert same(a["method"], b["method"]) and same(a["optimizer"], b["optimizer"])
    loaded = checkpoint.load_method(whole / "last.ckpt").method
    assert "triangle" in loaded.tokenizer.tokens
    with torch.no_grad():
        assert loaded.encode_text(["a red triangle"]).codes.shape == (1, 8)


def test_weights_of_init_keep_their_words(tmp_path):
    """The vocabulary of other captions would give every embedding to another word."""
    few = ["optim.epochs=1", "trainer.validate_every=0"]
    assert train(tmp_path / "a", *few).code == 0
    other = ["data.captioned_sprites.tell=0.3", f"init={tmp_path / 'a'}"]
    answer = train(tmp_path / "b", *few, *other)
    assert answer.code == 0 and "init: all" in answer.out
    words = [checkpoint.load_method(tmp_path / run / "last.ckpt").method for run in "ab"]
    assert torch.equal(words[0].tokenizer_bytes, words[1].tokenizer_bytes)


def test_a_damaged_tokenizer_in_a_checkpoint_is_one_line(tmp_path):
    assert train(tmp_path / "run", "optim.epochs=1").code == 0
    path = tmp_path / "run" / "last.ckpt"
    entries = torch.load(path, weights_only=True)
    stored = entries["method"]["tokenizer_bytes"]
    stored[:20] = torch.tensor(list(b'{"kind":"python"  , '), dtype=torch.uint8)
    torch.save(entries, path)
    with pytest.raises(UserError, match="last.ckpt: its tokenizer can not be used: "):
        checkpoint.load_method(path)


def test_data_without_captions_are_refused_in_one_line(tmp_path):
    answer = train(tmp_path / "run", "data.name=sprites")
    assert answer.is_one_line and "needs captions" in answer.err and "sprites" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.loss=ntxent", "model.loss: 'ntxent' is not one of infonce, sigmoid"),
        ("model.heads=3", "model.heads: 3 heads do not divide a width of 16"),
        ("model.temperature=0.001", "model.temperature: must be in [0.01, 1], got 0.001"),
        ("model.tokenizer=bytes", "model.vocabulary: must be 260 or more, got 128"),
        ("model.lock=both", "model.lock: 'both' is not one of none, image, text"),
    ],
)
def test_a_wrong_key_is_one_line(tmp_path, word, said):
    answer = train(tmp_path / "run", word)
    assert answer.is_one_line and said in answer.err


def test_the_loss_at_log_n_is_said_after_warm_up_and_not_before():
    method, stuck = taught(), {"infonce": math.log(128) + 0.001, "in_batch_bound": -0.001}

    def context(step: int) -> Context:
        return Context(step, 128, 10, lambda _: [], lambda *_: [], warmup=20)

    method.monitors(context(20))
    assert method.warning(stuck) == ""
    method.monitors(context(30))
    assert "log N = log 128 = 4.85 nats" in method.warning(stuck)
    assert "5% of captions are cut" in method.warning(stuck | {"captions_cut": 0.05})
    assert method.warning({"infonce": 3.0, "in_batch_bound": 1.85}) == ""


def test_captions_that_say_nothing_give_the_warning_in_the_log(tmp_path):
    answer = train(tmp_path / "run", "data.captioned_sprites.tell=0", "optim.warmup_epochs=0.5")
    assert answer.code == 0 and "warning: InfoNCE stands at log N = log 16" in answer.out


def test_a_locked_image_tower_does_not_change():
    method = taught(lock="image")
    before = {k: v.clone() for k, v in method.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method.train()
    method(batch()).loss.backward()
    optimizer.step()
    assert same(before, method.backbone.state_dict()) and method.text.training


def test_the_sigmoid_loss_trains_and_reports_the_same_bound():
    method = taught(loss="sigmoid", temperature=0.1)
    method.train()
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    given, seen = batch(64), []
    for _ in range(25):
        made = method(given._replace(rng=KeyedRNG(0, 0)))
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
        seen.append(made.metrics["in_batch_bound"].item())
    assert seen[-1] > seen[0] + 1 and made.metrics["bias"] != -10


def test_the_bound_beside_the_sigmoid_loss_is_that_of_infonce():
    sigmoid, infonce = (
        taught(loss=loss, temperature=0.1).eval() for loss in ("sigmoid", "infonce")
    )
    infonce.load_state_dict({k: v for k, v in sigmoid.state_dict().items() if k != "bias"})
    with torch.no_grad():
        found, other = (method(batch()).metrics for method in (sigmoid, infonce))
    for key in ("infonce", "in_batch_bound"):
        assert found[key].item() == pytest.approx(other[key].item(), abs=1e-6)
    assert abs(found["sigmoid"] - found["infonce"]) > 1  # the two losses differ


def test_cut_captions_and_unknown_words_are_shares():
    """Two of four captions are longer than the context; the tokenizer itself counts the words."""
    texts = ("a red disc", "a " * 40, "red " * 40, "zebra")
    method, given = taught(loss="sigmoid").eval(), batch(4)._replace(text=texts)
    with torch.no_grad():
        metrics = method(given).metrics
    ids = method.tokenizer.ids(texts, 16)
    assert ids.cut == 2 and metrics["captions_cut"].item() == 0.5
    assert 0 < ids.unknown < 1 and metrics["unknown_words"].item() == pytest.approx(ids.unknown)


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u4e16"])
def test_long_words_have_no_place_of_their_own(letter):
    """The limit of 40 is in bytes, because a checkpoint has 64 bytes for each token."""
    size = len(letter.encode())
    fits, long = letter * (40 // size), letter * (40 // size + 1)
    made = Tokenizer.learn([f"{fits} {long}"], "words", 16)
    assert made.tokens == [fits] and made.ids([f"{fits} {long}"], 8).unknown == 0.5
