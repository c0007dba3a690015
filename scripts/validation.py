"""What a run looks at while it trains, on images held out of training: its own metrics, an online
kNN, the geometry of its codes; of a queue, how stale it is; of a VAE, whether its code has
collapsed. The test split stays unread.
"""

from core.data.datasets import open_source
from core.data.source import Source, eval_sampler, train_sampler
from core.distributed import rank, single_process
from core.information.geometry import alignment, deviations, effective_rank, uniformity
from core.method import LatentModel, Method, PairCritic
from core.run.config import RunConfig, for_information
from core.run.features import Features, extract
from core.run.pictures import save_grid

from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from contrastive.moco import MoCo
from probes.codes import coded, codes, joined
from probes.collapse import Alarm, collapse_status
from probes.information import encode_pairs
from probes.knn import knn
from vae.beta import BetaVAE
from vae.pictures import reconstructions, traversals

MOST = 4096  # images read for a validation, so that it costs seconds
PAIRS = 2048  # of them, for the geometry of two views
CODED = 1024  # of them, for what a code carries


class Validation:
    """Validation of one run: `validation(method, step)` gives named numbers, and `warning` is what
    the newest of them call for, or empty.

    `source` is what it trains on, in `world` processes.
    """

    def __init__(self, run: RunConfig, device: torch.device, source: Source, world: int = 1):
        self.run, self.device, self.source = run, device, source
        self.parts = (
            1 if run.trainer.sync_batchnorm else world
        )  # of a batch: those whose keys share no statistics
        self.viewed = for_information(run).data
        self.views = open_source(run.data, "val", run.seed)
        self.train = open_source(run.data, "train", run.seed, augmented=False)
        self.held_out = open_source(run.data, "val", run.seed, augmented=False)
        self.pairs = open_source(self.viewed, "val", run.seed)
        self.alarm, self.warning = Alarm(), ""

    @torch.no_grad()
    def __call__(self, method: Method, step: int) -> dict[str, float]:
        """Mean metrics of the method on fresh views of the validation split; geometry and kNN
        accuracy of its features; of a queue its staleness, of a VAE what its code carries.

        To be called by all processes: they extract the features together, the first does the rest,
        and the others get nothing.
        """
        was_training, scores = method.training, {}
        method.eval()
        with (
            nullcontext() if self.run.trainer.sync_batchnorm else single_process()
        ):  # where running statistics differ the first's are those saved
            bank, query = (
                extract(method, source, self.run.seed, self.device, MOST)
                for source in (self.train, self.held_out)
            )
        if rank() == 0:
            with single_process():
                scores = (
                    self._metrics(method)
                    | self._geometry(method, query)
                    | self._queue(method, step)
                    | self._code(method)
                )
                scores["knn"] = knn(bank, query)["top1"]
        method.train(was_training)
        return {f"val/{name}": value for name, value in scores.items()}

    def _metrics(self, method: Method) -> dict[str, float]:
        size = min(self.run.optim.batch_size, len(self.views))
        whole = (
            min(MOST, len(self.views)) // size * size
        )  # equal batches, so that every one has the same number of candidates
        totals: dict[str, float] = {}
        for batch in self.views.batches(
            eval_sampler(whole, self.run.seed, size, self.device, "validation"), method.views
        ):
            for name, value in method(batch).metrics.items():
                totals[name] = totals.get(name, 0.0) + value.item() * size / whole
        return totals

    def _geometry(self, method: Method, held_out: Features) -> dict[str, float]:
        """Spread of the features; agreement and spread of two views' codes, or of the features'
        directions where there are no codes.
        """
        native = isinstance(method, PairCritic)
        pairs = encode_pairs(method, self.pairs, self.run.seed, self.device, native, PAIRS)
        first, second = (F.normalize(x, dim=1) for x in (pairs.codes if native else pairs.features))
        agreement = (
            {"alignment": alignment(first, second).item()} if self.viewed.views_differ else {}
        )
        spread = {
            "effective_rank": effective_rank(held_out.x),
            "deviation": deviations(held_out.x).mean,
        }
        return agreement | {"uniformity": uniformity(first)} | spread

    def _code(self, method: Method) -> dict[str, float]:
        """Of a VAE: active units, and an upper bound on what the code carries, min(R,
        leave-one-out).
        """
        if not isinstance(method, LatentModel):
            return {}
        order = eval_sampler(
            len(self.held_out), self.run.seed, device=self.device, purpose="collapse", most=CODED
        )
        prior = method.prior()
        found = collapse_status(
            joined([codes(batch, prior) for batch in coded(method, self.held_out, order)])
        )
        self.warning = self.alarm(found)
        return {"active_units": float(found.active_units), "information_upper": found.nats}

    def _queue(self, method: Method, step: int) -> dict[str, float]:
        """Of a queue after `step` steps: the age of its oldest keys, and how far the present key
        encoder has drifted away from them.

            drift = 1 - E cos(queued key, key of the same view now)

        Batch i is a function of (seed, i), so the views behind the oldest keys are made again
        rather than kept.
        """
        if not isinstance(method, MoCo):
            return {}
        size, n = self.run.optim.batch_size, len(self.source)
        keys, age = method.queue.oldest(size * method.keys_per_image)
        if age == 0:
            return {}
        made_at = step - age
        orders = [
            train_sampler(n, size, self.run.seed, made_at, made_at + 1, r, self.parts, self.device)
            for r in range(self.parts)
        ]
        parts = [batch for order in orders for batch in self.source.batches(order, method.views)]
        now = method.encode_again(parts)[-len(keys) :]
        return {
            "queue_age_epochs": age / (n // size),
            "queue_age_steps": float(age),
            "queue_drift": alignment(keys, now).item() / 2,
        }

    @torch.no_grad()
    def pictures(self, method: Method, folder: Path) -> dict[str, Path]:
        """Write what there is to see of the method now: its views and, of a VAE, reconstructions
        and traversals.
        """
        folder.mkdir(parents=True, exist_ok=True)
        batch = next(
            self.views.batches(
                eval_sampler(
                    min(128, len(self.views)), self.run.seed, 128, self.device, "pictures"
                ),
                method.views,
            )
        )
        made = {"views": save_grid(folder / "views.png", [view[:10] for view in batch.views])}
        if isinstance(method, BetaVAE):
            was_training = method.training
            method.eval()
            made["reconstructions"] = reconstructions(
                method, batch.views[0][:10], folder / "reconstructions.png"
            )
            made["traversals"] = traversals(method, batch.views[0], folder / "traversals.png")
            method.train(was_training)
        return made
