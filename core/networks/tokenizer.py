"""Captions as numbers: a word or byte-pair tokenizer by the `tokenizers` library, kept as bytes.

A tokenizer is a list of tokens and, for byte pairs, a list of merges. Only these are stored;
everything else is fixed here, so a checkpoint of unknown origin can not bring its own rules.
B = texts, T = tokens of the longest one.
"""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.errors import shown

# The library's threads would not survive the fork of a decoding worker. Without threads, a batch
# takes milliseconds.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

KINDS = ("words", "bytes")
SPECIAL = ("[PAD]", "[START]", "[END]", "[UNKNOWN]")
PAD, START, END, UNKNOWN = range(4)
MOST = 65536  # tokens of a vocabulary
ROOM = 64  # bytes in a checkpoint for each token of the vocabulary
LONGEST_WORD, LONGEST_PIECE = 40, 16  # bytes of a word, characters of a byte-pair token
LETTERS = 32  # characters that are read for each token of the context
MULTIPLE = 4  # T is a multiple of it (or the whole context), so that few shapes occur


class Ids(NamedTuple):
    """Texts as numbers."""

    tokens: Tensor  # int64 [B, T], [START] ... [END] [PAD] ...
    end: Tensor  # int64 [B], the place of [END]
    cut: int  # texts that were longer than the context
    unknown: float  # share of tokens that are not in the vocabulary


class Malformed(ValueError):
    """Bytes that do not describe a tokenizer."""


class Tokenizer:
    """Texts to numbers from 0: at most `context` for each text, [START] and [END] included."""

    def __init__(self, kind: str, tokens: Sequence[str], merges: Sequence[tuple[int, int]] = ()):
        """`tokens`: without the special ones. `merges`: pairs of places in `tokens`."""
        from tokenizers import Tokenizer as Library
        from tokenizers import models

        self.kind, self.tokens, self.merges = kind, list(tokens), list(merges)
        places = {token: place for place, token in enumerate([*SPECIAL, *tokens])}
        if kind == "words":
            self._library = Library(models.WordLevel(places, unk_token=SPECIAL[UNKNOWN]))
        else:
            pairs = [(tokens[a], tokens[b]) for a, b in merges]
            self._library = Library(models.BPE(vocab=places, merges=pairs))
        _prepare(self._library, kind)

    @classmethod
    def learn(cls, captions: Iterable[str], kind: str, vocabulary: int) -> "Tokenizer":
        """The tokenizer of the most frequent words, or byte pairs, of captions."""
        from tokenizers import Tokenizer as Library
        from tokenizers import models, pre_tokenizers, trainers

        options: dict[str, Any] = {"vocab_size": vocabulary, "show_progress": False}
        options["special_tokens"] = list(SPECIAL)
        if kind == "words":
            made = Library(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
            trainer: Any = trainers.WordLevelTrainer(**options)
        else:
            made, alphabet = Library(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(
                **options, initial_alphabet=sorted(alphabet), max_token_length=LONGEST_PIECE
            )
        _prepare(made, kind)
        made.train_from_iterator(captions, trainer)
        ordered = sorted(made.get_vocab().items(), key=lambda item: item[1])
        tokens = [token for token, _ in ordered if token not in SPECIAL]
        if kind == "words":
            fits = [t for t in tokens if len(t.encode()) <= LONGEST_WORD and t.isprintable()]
            return cls(kind, fits)
        place = {token: number for number, token in enumerate(tokens)}
        merges = json.loads(made.to_str())["model"]["merges"]
        return cls(kind, tokens, [(place[a], place[b]) for a, b in merges])

    @classmethod
    def from_bytes(cls, stored: bytes, vocabulary: int) -> "Tokenizer":
        """The tokenizer that `to_bytes` stored. Raises `Malformed` for anything else."""
        try:
            held = json.loads(stored.decode().rstrip() or "null")
        except (ValueError, RecursionError):
            raise Malformed("it is not a JSON text") from None
        if not isinstance(held, dict) or set(held) != {"kind", "tokens", "merges"}:
            raise Malformed(f"it holds {shown(held)} instead of kind, tokens and merges")
        kind, tokens, merges = held["kind"], held["tokens"], held["merges"]
        if kind not in KINDS:
            raise Malformed(f"its kind is {shown(kind)}, not {' or '.join(KINDS)}")
        if not isinstance(tokens, list) or not all(isinstance(t, str) and t for t in tokens):
            raise Malformed("its tokens are not a list of texts")
        if len({*tokens, *SPECIAL}) < len(tokens) + len(SPECIAL):
            raise Malformed("two of its tokens are the same")
        if len(tokens) + len(SPECIAL) > vocabulary:
            raise Malformed(f"it has {len(tokens):,} tokens for a vocabulary of {vocabulary:,}")
        _require_merges(tokens, merges)
        return cls(kind, tokens, [(a, b) for a, b in merges])

    def to_bytes(self, vocabulary: int) -> bytes:
        """JSON, padded with spaces to `ROOM` bytes for each token of the vocabulary."""
        held = {"kind": self.kind, "tokens": self.tokens, "merges": self.merges}
        text = json.dumps(held, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > vocabulary * ROOM:
            raise Malformed(f"its {len(text):,} bytes are more than {vocabulary * ROOM:,}")
        return text.ljust(vocabulary * ROOM)

    def ids(self, texts: Sequence[str], context: int) -> Ids:
        """Texts as numbers; a text over `context` tokens is cut at its end."""
        longest = context * LETTERS
        short = [text[:longest] for text in texts]
        rows = [e.ids for e in self._library.encode_batch(short, add_special_tokens=False)]
        cut = sum(
            len(row) > context - 2 or len(text) > longest
            for row, text in zip(rows, texts, strict=True)
        )
        count = max(1, sum(map(len, rows)))
        unknown = sum(row.count(UNKNOWN) for row in rows) / count
        rows = [[START, *row[: context - 2], END] for row in rows]
        width = max(map(len, rows), default=2)
        width = min(context, -(-width // MULTIPLE) * MULTIPLE)
        tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        return Ids(tokens, torch.tensor([len(row) - 1 for row in rows]), cut, unknown)


def _prepare(library: Any, kind: str) -> None:
    """Make letters lower-case, then split a text into words and punctuation, or into bytes."""
    from tokenizers import normalizers, pre_tokenizers

    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    library.pre_tokenizer = (
        pre_tokenizers.Whitespace()
        if kind == "words"
        else pre_tokenizers.ByteLevel(add_prefix_space=True)
    )


def _require_merges(tokens: list[str], merges: Any) -> None:
    """`Malformed` if merges are not pairs of tokens whose concatenation is a token."""
    known, n = set(tokens), len(tokens)
    fits = isinstance(merges, list) and len(merges) <= n
    for pair in merges if fits else ():
        fits = fits and isinstance(pair, list) and len(pair) == 2
        fits = fits and all(type(place) is int and 0 <= place < n for place in pair)
        fits = fits and tokens[pair[0]] + tokens[pair[1]] in known
    if not fits:
        raise Malformed("its merges are not pairs of its tokens")
