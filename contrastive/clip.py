"""CLIP: an image tower and a text tower, trained to find the caption of each image in a batch.

Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, 2021. With
`loss: sigmoid` it is SigLIP (Zhai et al. 2023). B = images on this process, N = pairs in the global
batch, P = projection dimensions, T = tokens of a caption.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.batch import Batch, Encoded, Output, at_least_float32
from core.checks import above_zero, at_least, counts, one_of
from core.distributed import world
from core.errors import UserError
from core.information.geometry import alignment
from core.information.losses import clip_loss
from core.information.sigmoid import sigmoid_loss
from core.method import Context, Method
from core.networks.backbones import STEMS, Backbone
from core.networks.text import TextTransformer
from core.networks.tokenizer import KINDS, MOST, ROOM, SPECIAL, Ids, Malformed, Tokenizer
from core.transfer import send

LOSSES = ("infonce", "sigmoid")
TOWERS = ("none", "image", "text")
POOLS = ("mean", "first", "last")
MAX_SCALE = 100.0  # the scores are at most 100 times a cosine (Radford et al. 2021, section 2.5)
STUCK = 0.01  # share of log N below which a held-out bound shows that nothing is learned


@dataclass
class CLIPConfig:
    backbone: str = "small"  # the image tower: small | what_where | the name of a timm model
    stem: str = "cifar"  # cifar | imagenet: the first layers of a timm backbone
    lock: str = "none"  # none | image | text: the tower whose weights are not trained (LiT)
    # a folder with a text encoder of Hugging Face (config.json, model.safetensors, tokenizer.json);
    # empty = a transformer with the sizes below
    text: str = ""
    text_pool: str = "mean"  # mean | first | last: which tokens of a caption are read
    # the architecture and sizes of the encoder in `text`; written by the program, not by you
    text_facts: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = "words"  # words | bytes (byte pairs); learned from the training captions
    vocabulary: int = 1024  # largest number of tokens, including the special ones
    # largest number of tokens of a caption, including [START] and [END]; longer captions are cut
    context: int = 32
    width: int = 128  # dimensions of a token in the text tower
    layers: int = 2  # layers of the text tower
    heads: int = 4  # attention heads of the text tower
    projection: int = 128  # dimensions of the codes
    loss: str = "infonce"  # infonce | sigmoid (SigLIP)
    temperature: float = 0.07  # temperature at the start; it is learned and stays at or above 0.01
    bias: float = -10.0  # bias of the sigmoid loss at the start; it is learned

    def __post_init__(self) -> None:
        one_of(self, stem=STEMS, lock=TOWERS, tokenizer=KINDS, loss=LOSSES, text_pool=POOLS)
        counts(self, vocabulary=MOST, context=4096, width=8192, layers=64, heads=128)
        at_least(self, projection=1, context=4)
        above_zero(self, "temperature")
        least = len(SPECIAL) + (256 if self.tokenizer == "bytes" else 1)
        at_least(self, vocabulary=least)
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide a width of {self.width}")
        if not 1 / MAX_SCALE <= self.temperature <= 1:
            raise ValueError(f"temperature: must be in [0.01, 1], got {self.temperature}")
        if not math.isfinite(self.bias):
            raise ValueError(f"bias: must be finite, got {self.bias}")
        if self.text_facts:
            from core.foreign import text

            text.require(self.text_facts)

    def completed(self) -> "CLIPConfig":
        """The config with the facts of the folder `text`, which a user named."""
        if not self.text or self.text_facts:
            return self
        from core.foreign import text

        return replace(self, text_facts=text.facts_of(self.text))


class CLIP(Method):
    """Compares images with captions. Probes of images read the image tower, before projection.

    The tokenizer is learned from the training captions, or is that of the folder `text`. It is kept
    as bytes among the weights.
    """

    Config = CLIPConfig
    views = 1
    reads_text = True
    criterion = "in_batch_bound"

    tokenizer_bytes: Tensor

    def __init__(self, config: CLIPConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.backbone = Backbone(config.backbone, shape, config.stem)
        self.text, room = _text_tower(config)
        self.image_projection = _projection(self.backbone.dim, config.projection)
        self.text_projection = _projection(self.text.dim, config.projection)
        # shape [1], because fsdp can not divide a scalar
        self.log_scale = nn.Parameter(torch.tensor([-math.log(config.temperature)]))
        if config.loss == "sigmoid":
            self.bias = nn.Parameter(torch.tensor([config.bias]))
        empty = torch.full((room,), ord(" "), dtype=torch.uint8)
        self.register_buffer("tokenizer_bytes", empty)
        self.register_load_state_dict_post_hook(_read_tokenizer)
        self._tokenizer: Reader | None = None
        self._warming_up = False
        if locked := self._locked:
            locked.requires_grad_(False)

    @property
    def temperature(self) -> float:
        """1 / scale: the scores are cosines divided by it."""
        return math.exp(-self.log_scale.item())

    @property
    def _locked(self) -> nn.Module | None:
        return {"image": self.backbone, "text": self.text}.get(self.config.lock)

    @property
    def tokenizer(self) -> "Reader":
        if self._tokenizer is None:
            raise UserError("method: this CLIP has no tokenizer yet; train it first")
        return self._tokenizer

    def begin(self) -> str:
        if not self.config.text:
            return ""
        from core.foreign import text

        assert isinstance(self.text, text.HubText)
        said, stored = text.load(self.text, self.config.text)
        self._keep_tokenizer(stored)
        _read_tokenizer(self, None)
        return said

    def _keep_tokenizer(self, stored: bytes) -> None:
        self.tokenizer_bytes.copy_(torch.frombuffer(bytearray(stored), dtype=torch.uint8))

    def learn_words(self, captions: Iterable[str]) -> None:
        if self._tokenizer is not None:  # it came with the first weights
            return
        if self.config.text_facts:  # resumed: the checkpoint holds the tokenizer
            from core.foreign import text

            self._tokenizer = text.Unread()
            return
        vocabulary = self.config.vocabulary
        made = Tokenizer.learn(captions, self.config.tokenizer, vocabulary)
        self._keep_tokenizer(made.to_bytes(vocabulary))
        self._tokenizer = made

    def train(self, mode: bool = True) -> "CLIP":
        super().train(mode)
        if locked := self._locked:
            locked.eval()  # its batch norms keep their statistics, too
        return self

    def forward(self, batch: Batch) -> Output:
        ids = self._ids(batch.text, batch.index.device)
        image, text = self.in_micro_batches(
            self._codes_of_both, batch.views[0], ids.tokens, ids.end
        )
        scaled = image * self.log_scale.exp().to(image.dtype)
        n = len(image) * world()
        if self.config.loss == "sigmoid":
            loss = sigmoid_loss(scaled, text, self.bias)
            with torch.no_grad():
                infonce = clip_loss(scaled, text, 1.0)
            metrics = {"sigmoid": loss.detach(), "bias": self.bias.detach()[0]}
        else:
            loss = clip_loss(scaled, text, 1.0)
            infonce, metrics = loss.detach(), {}
        metrics |= {
            "infonce": infonce,
            # This has the form of a valid bound on I(image; caption), the mean of both directions.
            # In training it is not a bound, because the towers have seen these pairs.
            "in_batch_bound": math.log(n) - infonce,
            "pair_alignment": alignment(image.detach(), text.detach()),
            "temperature": self.log_scale.detach()[0].neg().exp(),
            # filled on the device, because the host would have to wait for a copy
            "captions_cut": infonce.new_full((), ids.cut / len(batch.text)),
            "unknown_words": infonce.new_full((), ids.unknown),
        }
        return Output(loss, metrics)

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(MAX_SCALE))

    def embed(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        features = self.backbone(x)
        return Encoded(features, _unit(self.image_projection(features)))

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of two views of an image, which CLIP was not trained to compare."""
        return self._image_codes(query_view), self._image_codes(key_view)

    def encode_text(self, texts: Sequence[str]) -> Encoded:
        """Features [B, W] and unit-length codes [B, P] of texts."""
        ids = self._ids(texts, self.log_scale.device)
        features = self.text(ids.tokens, ids.end)
        return Encoded(features, _unit(self.text_projection(features)))

    def monitors(self, context: Context) -> dict[str, float]:
        self._warming_up = context.step <= context.warmup
        return {}

    def warning(self, scores: dict[str, float]) -> str:
        infonce, bound = scores.get("infonce", 0.0), scores.get("in_batch_bound", math.inf)
        chance = infonce + bound
        if self._warming_up or bound > STUCK * chance:
            return ""
        cut, unknown = scores.get("captions_cut", 0.0), scores.get("unknown_words", 0.0)
        text = f"; {cut:.0%} of captions are cut and {unknown:.0%} of words are unknown"
        return (
            f"InfoNCE stands at log N = log {math.exp(chance):.0f} = {chance:.2f} nats, so the"
            " codes do not show which caption belongs to which image. Try a lower optim.lr with"
            " more optim.warmup_epochs, or optim.clip=1, and check that captions and images of a"
            f" row belong together{text if cut or unknown else ''}"
        )

    def _image_codes(self, x: Tensor) -> Tensor:
        return _unit(self.image_projection(self.backbone(x)))

    def _codes_of_both(self, image: Tensor, tokens: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        text = _unit(self.text_projection(self.text(tokens, end)))
        return self._image_codes(image), text

    def _ids(self, texts: Sequence[str], device: torch.device) -> Ids:
        ids = self.tokenizer.ids(texts, self.config.context)
        tokens, end = send([ids.tokens, ids.end], device)
        return ids._replace(tokens=tokens, end=end)


class Reader(Protocol):
    """A tokenizer."""

    def ids(self, texts: Sequence[str], context: int) -> Ids: ...


def _text_tower(config: CLIPConfig) -> tuple[Any, int]:
    """The text tower, and the number of bytes that its tokenizer takes in a checkpoint."""
    if not config.text_facts:
        sizes = (config.vocabulary, config.context, config.width, config.layers, config.heads)
        return TextTransformer(*sizes), config.vocabulary * ROOM
    from core.foreign import text

    tower = text.HubText(config.text_facts, config.text_pool, config.context)
    return tower, config.text_facts["tokenizer"]


def _projection(features: int, codes: int) -> nn.Linear:
    made = nn.Linear(features, codes, bias=False)
    nn.init.normal_(made.weight, std=features**-0.5)
    return made


def _unit(x: Tensor) -> Tensor:
    return F.normalize(at_least_float32(x), dim=1)


def _read_tokenizer(method: nn.Module, _: object) -> None:
    """Called after weights were loaded: reads the tokenizer that is kept among them."""
    assert isinstance(method, CLIP)
    stored = bytes(method.tokenizer_bytes.cpu().numpy())
    config = method.config
    try:
        if config.text_facts:
            from core.foreign import text

            method._tokenizer = text.HubTokenizer(stored, text.pad_of(config.text_facts))
        else:
            method._tokenizer = Tokenizer.from_bytes(stored, config.vocabulary)
    except Malformed as error:
        raise RuntimeError(f"its tokenizer can not be used: {error}") from None
