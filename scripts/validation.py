"""What a run looks at while it trains, on images held out of training: its own metrics and an online kNN. The test split stays unread."""

from core.config import RunConfig
from core.data import open_source
from core.distributed import alone
from core.features import extract
from core.method import Method
from core.pictures import save_grid
from core.source import reading_order

from pathlib import Path

import torch

from probes.knn import knn
from vae.beta import BetaVAE
from vae.pictures import reconstructions, traversals

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
        bank, query = (extract(method, source, self.run.seed, self.device, MOST) for source in (self.train, self.held_out))
        return {"knn": knn(bank, query)["top1"]}

    @torch.no_grad()
    def pictures(self, method: Method, folder: Path) -> dict[str, Path]:
        """Write what there is to see of the method now: its views and, of a VAE, reconstructions and traversals."""
        folder.mkdir(parents=True, exist_ok=True)
        batch = next(
            self.views.batches(reading_order(min(128, len(self.views)), self.run.seed, 128, self.device, "pictures"), method.views)
        )
        made = {"views": save_grid(folder / "views.png", [view[:10] for view in batch.views])}
        if isinstance(method, BetaVAE):
            was_training = method.training
            method.eval()
            made["reconstructions"] = reconstructions(method, batch.views[0][:10], folder / "reconstructions.png")
            made["traversals"] = traversals(method, batch.views[0], folder / "traversals.png")
            method.train(was_training)
        return made
