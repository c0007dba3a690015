"""Text encoders of Hugging Face as CLIP's text tower, from a local folder."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from contrastive.clip import CLIP, CLIPConfig
from core.errors import UserError
from core.foreign import fit, text, weights
from core.networks.tokenizer import Malformed
from core.run import checkpoint, config
from tests.in_process import CONFIGS, call

WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    *["a", "red", "green", "blue", "disc", "ring", "cross", "triangle"],
]
SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
    },
    "t5": {
        "vocab_size": len(WORDS),
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 2,
        "pad_token_id": 0,
    },
    "clip_text_model": {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
TEXTS = ["a red disc", "a blue triangle or a green cross", "red"]


def tokenizer_json() -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    pair: Any = {"single": "[CLS] $A [SEP]", "special_tokens": [("[CLS]", 1), ("[SEP]", 2)]}
    made.post_processor = processors.TemplateProcessing(**pair)
    return made.to_str()


def folder_of(place: Path, kind: str) -> tuple[Path, Any]:
    """A folder as `save_pretrained` writes it, and transformers' own model of it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(kind, **SIZES[kind])
    )
    made.save_pretrained(place)
    (place / "tokenizer.json").write_text(tokenizer_json())
    return place, made.eval()


@pytest.mark.parametrize("kind", SIZES)
def test_features_are_those_of_transformers(kind, tmp_path):
    place, theirs = folder_of(tmp_path, kind)
    facts = text.facts_of(str(place))
    reader = text.HubTokenizer(tokenizer_json().encode(), text.pad_of(facts))
    ids = reader.ids(TEXTS, 16)
    tower = text.HubText(facts, "mean", 16).train()  # dropout is off in training, too
    text.load(tower, str(place))
    found = tower(ids.tokens, ids.end)
    if kind == "t5":
        theirs = theirs.get_encoder()
    for row, (tokens, end) in enumerate(zip(ids.tokens, ids.end, strict=True)):
        alone = theirs(input_ids=tokens[None, : end + 1]).last_hidden_state[0]
        torch.testing.assert_close(found[row], alone.mean(0), atol=1e-5, rtol=1e-5)
        for pool, expected in (("first", alone[0]), ("last", alone[-1])):
            tower.pool = pool
            pooled = tower(ids.tokens, ids.end)[row]
            torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
        tower.pool = "mean"
    assert ids.tokens[2].tolist()[:3] == [1, 5, 2] and ids.cut == 0
    assert 0 < ids.unknown < 0.2  # "or"
    assert reader.ids(TEXTS, 4).cut == 2


def test_a_run_locks_the_tower_and_its_checkpoint_needs_no_folder(tmp_path):
    place, _ = folder_of(tmp_path / "bert", "bert")
    run = tmp_path / "run"
    words = [f"model.text={place}", "model.lock=text", "model.context=30", f"folder={run}"]
    words += [f"data.captioned_sprites.{split}=64" for split in ("train", "validation", "test")]
    words += ["optim.batch_size=32", "optim.epochs=1", "wandb=disabled", "optim.warmup_epochs=0"]
    done = call(str(CONFIGS / "clip_sprites.yaml"), *words)
    assert done.code == 0 and f"model.text: {place}: " in done.out, done
    before = text.HubText(text.facts_of(str(place)), "mean", 30)
    text.load(before, str(place))
    for file in place.iterdir():
        file.unlink()
    found = checkpoint.load_method(run / "last.ckpt").method
    assert isinstance(found, CLIP)
    for name, value in before.state_dict().items():
        assert torch.equal(value, found.text.state_dict()[name]), "the tower is locked"
    assert found.encode_text(TEXTS).features.shape == (3, 32)
    assert call(str(run), "--resume", "optim.epochs=2").code == 0
    with pytest.raises(UserError, match="holds no config.json"):
        config.read(CONFIGS / "clip_sprites.yaml", [f"model.text={place}"])


def test_folders_that_can_not_be_used_are_one_line(tmp_path):
    place, _ = folder_of(tmp_path / "bert", "bert")
    facts, held = text.facts_of(str(place)), json.loads((place / "config.json").read_text())

    def refused(said: str, **changes: Any) -> None:
        (place / "config.json").write_text(json.dumps(held | changes))
        with pytest.raises(UserError, match=said) as raised:
            text.load(text.HubText(text.facts_of(str(place)), "mean", 16), str(place))
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 500

    refused("asks for a network of more than", hidden_size=2**16, num_attention_heads=2)
    refused("can not build", model_type="my_own")
    refused(
        "not a text encoder", model_type="detr", use_pretrained_backbone=True, backbone="resnet50"
    )
    refused("does not hold the weights", intermediate_size=128)
    refused("reads at most 8 tokens", max_position_embeddings=8)
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="pickled weights are not read"):
        text.facts_of(str(place))
    with pytest.raises(ValueError, match="'auto_map' is not allowed"):
        more = facts | {"config": facts["config"] | {"auto_map": {"AutoModel": "a--b.C"}}}
        CLIPConfig(text="x", text_facts=more)


def test_code_of_a_folder_is_not_among_its_facts(tmp_path):
    held = {"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}, "hidden_size": 8}
    held |= {"_attn_implementation": "a/b", "quantization_config": {}, "torch_dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(held))
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert text.facts_of(str(tmp_path))["config"] == {"model_type": "bert", "hidden_size": 8}


def test_weights_that_do_not_fit_are_not_compared_with_networks_of_timm(monkeypatch):
    monkeypatch.setattr(fit, "_skeleton", None)  # model.text takes a folder, not such a network
    held = weights.Weights({"a.b": torch.zeros(2)}, "")
    with pytest.raises(UserError, match="none of its keys is a key of bert; .* 'a.b'$"):
        fit.load(torch.nn.Linear(2, 2), "bert", Path("w"), held, None, text.WORDS)


def test_without_transformers_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    facts = {"config": {"model_type": "bert"}, "weights": 100, "tokenizer": 100}
    with pytest.raises(UserError, match="needs the package transformers.*pip install transformers"):
        text.HubText(facts, "mean", 16)
    with pytest.raises(UserError, match="there is no folder"):
        text.facts_of(str(tmp_path / "nowhere"))
    with pytest.raises(Malformed, match="not a tokenizer.json"):
        text.HubTokenizer(b"{}", 0)


@pytest.mark.parametrize("pool, rows", [("mean", [0, 1, 2]), ("first", [0]), ("last", [2])])
def test_a_feature_is_that_of_the_tokens_up_to_the_end(monkeypatch, pool, rows):
    """With a network in place of that of transformers, which need not be installed."""
    hidden, masks = torch.randn(2, 5, 4), []

    class Network(torch.nn.Module):
        config = SimpleNamespace(hidden_size=4)

        def forward(self, input_ids, attention_mask):
            masks.append(attention_mask)
            return SimpleNamespace(last_hidden_state=hidden)

    monkeypatch.setattr(text, "_network", lambda facts, context: Network())
    found = text.HubText({}, pool, 5)(torch.zeros(2, 5, dtype=torch.long), torch.tensor([2, 4]))
    assert found[0] == pytest.approx(hidden[0, rows].mean(0), abs=1e-6)
    assert masks[0].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("kind, longest", [("roberta", 38), ("bert", 40)])
def test_places_of_a_roberta_begin_after_the_padding_token(monkeypatch, kind, longest):
    def built(kind, **sizes):
        raise ValueError("as far as needed")

    made = {"MODEL_MAPPING": {}, "AutoConfig": SimpleNamespace(for_model=built), "AutoModel": None}
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(**made))
    sizes = {"model_type": kind, "max_position_embeddings": 40, "pad_token_id": 1}
    facts = {"config": sizes, "weights": 1, "tokenizer": 1}
    with pytest.raises(UserError, match="as far as needed"):
        text.HubText(facts, "mean", longest)
    with pytest.raises(UserError, match=f"reads at most {longest} tokens"):
        text.HubText(facts, "mean", longest + 1)
