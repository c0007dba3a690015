"""A text encoder of Hugging Face from a local folder, as the text tower of CLIP.

The folder holds config.json, model.safetensors and tokenizer.json. Nothing is fetched, no code of
the folder is run, and pickles are not read. The architecture is one that `transformers` itself has.
Its sizes are plain values, and are compared with the weights before memory is allocated.
A checkpoint keeps the facts, the weights and the tokenizer, so it does not need the folder.

B = texts, T = tokens of the longest text, D = feature dimensions.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, shown
from core.foreign import fit, weights
from core.networks.tokenizer import LETTERS, Ids, Malformed
from core.run.budget import OverBudget, budget

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
LARGEST = {CONFIG: 2**20, TOKENIZER: 2**26}  # bytes
# SPARE: the bytes that building may use in addition to four times the weights. MODULES: the largest
# number of modules of a network.
SPARE, MODULES = 2**28, 20_000
# keys that would make transformers import, fetch or convert something
REFUSED: tuple[str, ...] = (
    "auto_map",
    "quantization_config",
    "attn_implementation",
    "torch_dtype",
    "dtype",
)
REFUSED += ("architectures", "name_or_path", "transformers_version", "task_specific_params")
REFUSED += ("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone")
REFUSED += ("use_pretrained_backbone",)
WORDS = fit.Words(network="", others="they are not used")


class HubText(nn.Module):
    """Token numbers [B, T] and the place of the last token [B] to features [B, D]."""

    def __init__(self, facts: dict[str, Any], pool: str, context: int):
        """`facts`: what `facts_of` returns. The weights are random. Raises `UserError`."""
        super().__init__()
        self.net, self.pool = _network(facts, context), pool
        self.dim: int = self.net.config.hidden_size

    def forward(self, tokens: Tensor, end: Tensor) -> Tensor:
        mask = torch.arange(tokens.shape[1], device=end.device) <= end[:, None]
        made = self.net(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        if self.pool == "first":
            return made[:, 0]
        chosen = F.one_hot(end, tokens.shape[1]) if self.pool == "last" else mask
        share = (chosen / chosen.sum(1, keepdim=True)).to(made.dtype)
        return (made * share[:, :, None]).sum(1)


class HubTokenizer:
    """Texts to numbers, as the folder's tokenizer.json says."""

    def __init__(self, stored: bytes, pad: int):
        from tokenizers import Tokenizer

        try:
            self._library = Tokenizer.from_str(stored.decode())
        except Exception as error:  # the library raises plain exceptions
            raise Malformed(f"it is not a tokenizer.json ({shown(str(error))})") from None
        self._library.no_padding()
        self.pad = pad
        unknown = getattr(self._library.model, "unk_token", None)
        found = self._library.token_to_id(unknown) if isinstance(unknown, str) else None
        self.unknown = -1 if found is None else found

    def ids(self, texts: Sequence[str], context: int) -> Ids:
        """Texts as numbers; a text over `context` tokens is cut."""
        self._library.enable_truncation(context)
        found = self._library.encode_batch([text[: context * LETTERS] for text in texts])
        rows = [one.ids or [self.pad] for one in found]
        width = max(map(len, rows), default=1)
        tokens = torch.tensor([row + [self.pad] * (width - len(row)) for row in rows])
        unknown = sum(row.count(self.unknown) for row in rows) / max(1, sum(map(len, rows)))
        cut = sum(
            len(one.overflowing) > 0 or len(text) > context * LETTERS
            for one, text in zip(found, texts, strict=True)
        )
        return Ids(tokens, torch.tensor([len(row) - 1 for row in rows]), cut, unknown)


class Unread:
    """Replaces the tokenizer of a resumed run until its checkpoint is read. The dry run then gets
    captions of the full length.
    """

    def ids(self, texts: Sequence[str], context: int) -> Ids:
        tokens = torch.zeros(len(texts), context, dtype=torch.long)
        return Ids(tokens, torch.full((len(texts),), context - 1), 0, 0.0)


def facts_of(folder: str) -> dict[str, Any]:
    """What a folder says about its encoder: "config" (plain values), "weights" and "tokenizer" (the
    sizes of these files in bytes). Raises `UserError`.
    """
    top = Path(os.path.abspath(os.path.expanduser(folder)))
    if not top.is_dir():
        raise UserError(f"model.text: there is no folder {top}; fetch the encoder into a folder")
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (top / name).is_file():
            others = sorted(file.name for file in top.iterdir())[:8]
            raise UserError(
                f"model.text: {top} holds no {name} (it holds {', '.join(others) or 'nothing'}); a"
                " folder of a Hugging Face encoder has config.json, model.safetensors and"
                " tokenizer.json, and pickled weights are not read"
            )
    try:
        config = json.loads(_bytes(top / CONFIG))
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ValueError("it names no model_type")
        if isinstance(inner := config.get("text_config"), dict):  # the text half of a CLIP
            kind = inner.get("model_type", config["model_type"])
            ending = "" if str(kind).endswith("_text_model") else "_text_model"
            config = inner | {"model_type": f"{kind}{ending}"}
        config = {key: value for key, value in config.items() if _is_size(key, value)}
    except (ValueError, RecursionError) as error:
        raise UserError(f"model.text: {top / CONFIG}: can not be used ({error})") from None
    sizes = {name: os.path.getsize(top / name) for name in (WEIGHTS, TOKENIZER)}
    return {"config": config, "weights": sizes[WEIGHTS], "tokenizer": sizes[TOKENIZER]}


def load(tower: HubText, folder: str) -> tuple[str, bytes]:
    """Load the folder's weights; returns a line for the user and the bytes of its tokenizer."""
    top = Path(os.path.abspath(os.path.expanduser(folder)))
    try:
        held = weights.read(top / WEIGHTS)
        tensors = {
            key.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
                "LayerNorm.beta", "LayerNorm.bias"
            ): value
            for key, value in held.tensors.items()
            if not key.endswith("position_ids")  # constants in older files
        }
        if "shared.weight" in tensors:  # T5: one table for encoder and decoder
            tensors.setdefault("encoder.embed_tokens.weight", tensors["shared.weight"])
        found = fit.load(tower.net, str(top), top / WEIGHTS, weights.Weights(tensors, held.digest),
                         None, WORDS)  # fmt: skip
    except UserError as error:
        raise UserError(f"model.text: {error}") from None
    said = f"model.text: {top}: {'; '.join(found.remarks)} (sha256 {held.digest[:16]})"
    return said, _bytes(top / TOKENIZER)


def pad_of(facts: dict[str, Any]) -> int:
    """The number of the padding token."""
    pad = facts["config"].get("pad_token_id")
    return pad if type(pad) is int and pad >= 0 else 0


def require(facts: Any) -> None:
    """ValueError if values from a config are not what `facts_of` returns."""
    keys = {"config": dict, "weights": int, "tokenizer": int}
    if not isinstance(facts, dict) or {k: type(v) for k, v in facts.items()} != keys:
        raise ValueError(
            f"text_facts: must hold {', '.join(keys)}; the program writes it when model.text is set"
        )
    strange = [key for key, value in facts["config"].items() if not _is_size(key, value)]
    if strange or not isinstance(facts["config"].get("model_type"), str):
        raise ValueError(f"text_facts: {shown((strange or ['model_type'])[0])} is not allowed")
    if not 0 < facts["tokenizer"] <= LARGEST[TOKENIZER] or facts["weights"] < 1:
        raise ValueError("text_facts: the sizes of its files are not possible")


def _network(facts: dict[str, Any], context: int) -> Any:
    """The network of transformers with these sizes, without dropout and without a pooler."""
    try:
        from transformers import MODEL_MAPPING, AutoConfig, AutoModel
    except ImportError as error:
        raise UserError(
            f"model.text: needs the package transformers, which is not installed ({error}); pip"
            " install transformers"
        ) from None
    plain: dict[str, Any] = {
        key: 0.0 if "drop" in key else value for key, value in facts["config"].items()
    }
    kind = str(plain.pop("model_type"))
    longest = plain.get("max_position_embeddings")
    if isinstance(longest, int) and "roberta" in kind:
        longest -= pad_of(facts) + 1  # RoBERTa's positions begin after the padding token
    if isinstance(longest, int) and context > longest:
        raise UserError(f"model.context: this text encoder reads at most {longest} tokens")
    try:
        with budget(4 * facts["weights"] + SPARE, MODULES):
            config = AutoConfig.for_model(kind, **plain)
            found = MODEL_MAPPING[type(config)]  # other networks may fetch weights when built
            for network in found if isinstance(found, tuple) else (found,):
                if getattr(network, "main_input_name", "") != "input_ids":
                    raise ValueError("it is not a text encoder")
            config._attn_implementation = "sdpa"
            made = AutoModel.from_config(config, trust_remote_code=False)
    except OverBudget as error:
        raise UserError(
            f"model.text: its config asks for a network of {error}, but its weights are smaller"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        said = shown(" ".join(str(error).split()))
        raise UserError(f"model.text: transformers can not build {shown(kind)} ({said})") from None
    if getattr(made.config, "is_encoder_decoder", False):
        made = made.get_encoder()
    if getattr(made, "pooler", None) is not None:
        made.pooler = None  # its weights would get no gradient
    if not hasattr(made.config, "hidden_size"):
        raise UserError(f"model.text: {shown(kind)} is not a text encoder")
    return made.float()


def _is_size(key: Any, value: Any, depth: int = 0) -> bool:
    """Whether an entry of a config.json is a plain value that decides a network's form."""
    if not isinstance(key, str) or key.startswith("_") or key in REFUSED or depth > 3:
        return False
    if depth and key == "model_type":  # it would name a network inside of the network
        return False
    if isinstance(value, dict):
        return all(_is_size(inner, x, depth + 1) for inner, x in value.items())
    parts = value if isinstance(value, list) else [value]
    return all(part is None or isinstance(part, str | int | float | bool) for part in parts)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST[path.name]:
            raise UserError(f"model.text: {path} is larger than {LARGEST[path.name]:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"model.text: {path} can not be read ({error.strerror})") from None
