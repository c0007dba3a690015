"""What a run looks at while it trains, on images held out of training: its own metrics and an online kNN. The test split stays unread."""

from pathlib import Path

import torch

from core.config import RunConfig
from core.data import open_source
from core.distributed import alone
from core.features import extract
from core.method import Method
from core.source import Source, reading_order
from probes.knn import knn

MOST = 4096  # images read for a validation, so that it costs seconds


class Validation:
    """Validation of one run: `validation(method)` gives named numbers."""

    def __init__(self, run: RunConfig, device: torch.device):
        self.run, self.device = run, device
        self.views = open_source(run.data, "val", run.seed)
        self.train = open_source(run.data, "train", run.seed, augmented=False)
        self.held_out = open_source(run.data, "val", run.seed, augmented=False)

    @torch.no_grad()
    def __call__(self, method: Method) -> dict[str, float]:
        """Mean metrics of the method on fresh views of the validation split, and the kNN accuracy of its features."""
        was_training = method.training
        method.eval()
        with alone():
            scores = self._metrics(method) | self._knn(method)
        method.train(was_training)
        return {f"val/{name}": value for name, value in scores.items()}

    def _metrics(self, method: Method) -> dict[str, float]:
        size = min(self.run.optim.batch_size, len(self.views))
        whole = min(MOST, len(self.views)) // size * size  # equal batches, so that every one has the same number of candidates
        totals: dict[str, float] = {}
        for batch in self.views.batches(reading_order(whole, self.run.seed, size, self.device, "validation"), method.views):
            for name, value in method(batch).metrics.items():
                totals[name] = totals.get(name, 0.0) + value.item() * size / whole
        return totals

    def _knn(self, method: Method) -> dict[str, float]:
        bank, query = (extract(method, self._first(source), self.run.seed, self.device) for source in (self.train, self.held_out))
        return {"knn": knn(bank, query)["top1"]}
