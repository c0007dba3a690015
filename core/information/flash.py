"""InfoNCE against a queue by flash attention: one fused pass on a GPU that stores no scores.

Attention whose values are the keys gives the softmax-weighted mean key and the log-sum-exp, as
`chunked` does. Flash attention (Dao 2023) needs half precision: products, scores and sums are
float32, but queries, keys and (for the mean) probabilities are rounded. The effect on the loss is
known beforehand (`error`); if it is too large, `chunked` computes the loss in float32.

N = queries, K = keys, D = dimensions, S = parts of the keys. The parts run in parallel, because a
few queries alone do not fill a GPU.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

# Unit-length codes do not need bfloat16's range, and float16 rounds them eight times finer.
HALF = torch.float16
LIMIT = 3e-4  # nats; the largest allowed effect of rounding on a loss
DEVICES: tuple[str, ...] = ("cuda",)  # on a CPU, chunks are faster

WIDEST = 256  # most dimensions of the kernel
# ROWS: queries of a block of the kernel. BLOCKS: number of blocks that fills a GPU. LEAST: smallest
# number of keys of a part
ROWS, BLOCKS, LEAST = 128, 256, 512
MOST = 2**23  # a chunk of keys has at most this many numbers; in half precision, this is 16 MiB

Attention = Callable[..., tuple[Tensor, ...]]


def serves(query: Tensor, keys: Tensor, scale: float) -> bool:
    """Whether flash attention is available here and exact enough."""
    possible = (
        query.device.type in DEVICES
        and query.dtype == torch.float32
        and query.shape[1] <= WIDEST
        and len(keys) > 0
    )
    if not possible or error(scale, *query.shape) > LIMIT:
        return False
    if kernel(query.device) is None:
        _warn_once(query.device)
        return False
    return True


@functools.cache
def _warn_once(device: torch.device) -> None:
    """Warn once per device that half precision was requested, but float32 is used."""
    log.warning(
        "torch %s has no suitable flash attention on %s: the queue's loss is computed in chunks,"
        " in float32",
        torch.__version__,
        device,
    )


def error(scale: float, n: int, d: int) -> float:
    """The change of the mean loss of N queries that comes from rounding the keys, in nats: three
    standard deviations, for codes of unit length.

    A coordinate's relative error is uniform, with a deviation e of at most eps / sqrt(12). So the
    error of a score, scale <q, k>, has the deviation e scale sqrt(sum_i q_i^2 k_i^2). For q = k
    with normally distributed coordinates this is e scale sqrt(3 / D). Errors of different keys are
    independent, so a mean over keys has a smaller error. The worst case assumed here is a softmax
    that lies on a single key, with another key for each query. (If all queries share one key, as
    after a collapse, the error is sqrt(N) times larger.) `softmax_mean` corrects the rounding of
    the queries.
    """
    return 1.5 * torch.finfo(HALF).eps * scale / math.sqrt(n * d)


def softmax_mean(query: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`core.information.chunked.softmax_mean` by flash attention: log sum_c exp(scale <q, k_c>),
    [N], and the softmax-weighted mean key [N, D].

    Extra memory is O(N D), one chunk of keys in half precision, and parts of at most 192 D KiB (24
    MiB for D = 128).
    """
    rounded = _padded(query)
    found: list[tuple[Tensor, Tensor]] = []
    for chunk in keys.split(MOST // query.shape[1]):
        found = [merge(*_together(found + _attended(rounded, chunk, scale)))]
    ((total, mean),) = ((total, mean[:, : query.shape[1]]) for total, mean in found)
    # The mean is the gradient of the log-sum-exp: this first-order step corrects the rounding of
    # the queries.
    return total.add_(((query - rounded[:, : query.shape[1]]) * mean).sum(1), alpha=scale), mean


def _attended(query: Tensor, chunk: Tensor, scale: float) -> list[tuple[Tensor, Tensor]]:
    """Log-sum-exps [S, N] and means [S, N, D] of the parts of a chunk of keys."""
    attend = kernel(query.device)
    assert attend is not None
    found = []
    for parts in _parts(_padded(chunk), len(query)):
        mean, logs = attend(query.expand(len(parts), 1, -1, -1), parts, parts, scale=scale)[:2]
        found.append((logs[:, 0], mean[:, 0]))
    return found


def _together(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All parts as one tensor; a result of `merge`, [N] and [N, D], counts as one part."""
    if len(found) == 1:
        return found[0]
    totals, means = zip(
        *((x if x[0].ndim == 2 else (x[0][None], x[1][None])) for x in found), strict=True
    )
    return torch.cat(totals), torch.cat(means)


def _padded(x: Tensor) -> Tensor:
    """x in half precision, padded with zeros to a multiple of 8 dimensions for the kernel."""
    rounded, missing = x.to(HALF).contiguous(), -x.shape[1] % 8
    return F.pad(rounded, (0, missing)) if missing else rounded


def _parts(keys: Tensor, n: int) -> Iterator[Tensor]:
    """Keys [K, D] as views [S, 1, K // S, D] with S a power of two, and the remainder, if any."""
    most = min(BLOCKS // -(-n // ROWS), len(keys) // LEAST)
    count = 2 ** max(0, most.bit_length() - 1)
    even = len(keys) // count * count
    yield keys[:even].view(count, 1, -1, keys.shape[1])
    if even < len(keys):
        yield keys[None, None, even:]


def merge(totals: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Combine parts: log-sum-exps [S, N] and softmax-weighted means [S, N, D] to [N] and [N, D]."""
    top = totals.amax(0)
    shares = (totals - top).exp_()
    total = shares.sum(0)
    # [N, 1, S] by [N, S, D], in the precision of the sums
    means = torch.bmm((shares / total).T[:, None], means.to(total.dtype).transpose(0, 1))
    return total.log_().add_(top), means[:, 0]


@functools.cache
def kernel(device: torch.device) -> Attention | None:
    """torch's flash attention with log-sum-exp; None if this torch or device lacks it or if it
    fails a check.

    It maps queries [S, 1, N, D], keys and values [S, 1, K, D] and a scale to the weighted means
    [S, 1, N, D] and the log-sum-exps [S, 1, N], in natural logarithms.
    """
    name = "_scaled_dot_product_flash_attention" + ("_for_cpu" if device.type == "cpu" else "")
    try:
        attend = getattr(torch.ops.aten, name)
        keys = torch.linspace(-1, 1, 80, device=device).to(HALF).view(2, 1, 5, 8)
        query = keys[:1, :, :3].expand(2, -1, -1, -1)
        mean, total = attend(query, keys, keys, scale=2.0)[:2]
        scores = 2 * query.double() @ keys.double().mT
        exact = scores.softmax(-1) @ keys.double()
        right = torch.allclose(total.double(), scores.logsumexp(-1), atol=1e-2)
        right = right and torch.allclose(mean.double(), exact, atol=1e-2)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return attend if right else None
