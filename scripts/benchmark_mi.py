"""The peer: benchmark-mi's catalogue of tasks and its InfoNCE estimator, which run in an
environment of their own.

`Peer` is our side. The other side is this very file, run by the peer's interpreter, so nothing but
numpy, scipy and benchmark-mi may be imported at its top level: it reads commands line by line and
answers each in one line of JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Peer:
    """Tasks of the catalogue as `Known` pairs, and the peer's estimate of each with its wall
    time.
    """

    def __init__(self, interpreter: Path, pairs: int, seed: int):
        from core.errors import UserError

        self.folder = tempfile.TemporaryDirectory()
        words = [str(interpreter), __file__, str(pairs), str(seed), self.folder.name]
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise UserError(f"--peer: {interpreter} can not be run ({error.strerror})") from None
        assert self.process.stdin and self.process.stdout and self.process.stderr
        first = self.process.stdout.readline()
        if not first:
            said = self.process.stderr.read().strip().splitlines() or ["it said nothing"]
            raise UserError(f"--peer: {interpreter} holds no benchmark-mi that works ({said[-1]})")
        self.names: list[str] = json.loads(first)

    def draw(self, name: str) -> Any:
        """The task's pairs as `Known`."""
        import numpy as np

        from probes.samples.benchmark_sources import Known

        answer = self._ask("draw", name)
        with np.load(answer["file"], allow_pickle=False) as file:
            return Known(file["x"], file["y"], file["pointwise"], float(file["information"]))

    def estimate(self, name: str) -> dict[str, float]:
        """`peer` in nats and `peer_seconds`, on the pairs that were drawn last."""
        return self._ask("estimate", name)

    def _ask(self, command: str, name: str) -> dict[str, Any]:
        from core.errors import UserError

        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.process.stdin.write(f"{command} {name}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            said = self.process.stderr.read().strip().splitlines() or ["it said nothing"]
            raise UserError(f"--peer: failed at {command} {name} ({said[-1]})")
        return dict(json.loads(answer))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def serve(pairs: int, seed: int, folder: Path) -> None:
    """Answer "draw NAME" and "estimate NAME" until the input ends."""
    import bmi
    import numpy as np
    from bmi.estimators import InfoNCEEstimator

    catalogue = bmi.benchmark.BENCHMARK_TASKS
    print(json.dumps(list(catalogue)), flush=True)
    for line in sys.stdin:
        command, name = line.split(maxsplit=1)
        path = folder / "pairs.npz"
        if command == "draw":
            sampler = catalogue[name.strip()].sampler
            x, y = map(np.asarray, sampler.sample(pairs, seed))
            base = _base(sampler)
            pointwise = _pointwise(
                base, *map(np.asarray, base.sample(pairs, seed))
            )  # maps change none
            np.savez(
                path,
                x=x,
                y=y,
                pointwise=pointwise,
                information=float(catalogue[name.strip()].mutual_information),
            )
            answer: dict[str, Any] = {"file": str(path)}
        else:
            with np.load(path) as file:
                x, y = file["x"], file["y"]
            began = time.monotonic()
            value = float(InfoNCEEstimator(verbose=False).estimate(x, y))
            answer = {"peer": value, "peer_seconds": time.monotonic() - began}
        print(json.dumps(answer), flush=True)


def _base(sampler: Any) -> Any:
    """The sampler under all maps."""
    while hasattr(sampler, "_base_sampler"):
        sampler = sampler._base_sampler
    return sampler


def _pointwise(sampler: Any, x: Any, y: Any) -> Any:
    """log p(x, y) / p(x) p(y) of every pair, by scipy's densities."""
    import numpy as np
    from scipy import stats

    kind, dx = type(sampler).__name__, x.shape[1]
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if kind == "AdditiveUniformSampler":
        width = sampler._epsilon if hasattr(sampler, "_epsilon") else sampler.epsilon
        return -np.log(np.minimum(1, y[:, 0] + width) - np.maximum(0, y[:, 0] - width))
    sampler = getattr(sampler, "_sampler", sampler)
    if kind == "SplitStudentT":
        shape, density = (
            np.asarray(sampler._dispersion, float),
            lambda s: stats.multivariate_t(shape=s, df=sampler.df),
        )
    else:
        joint = getattr(sampler, "_joint_distribution", sampler)
        shape, density = (
            np.asarray(joint._covariance, float),
            lambda s: stats.multivariate_normal(cov=s),
        )
    both = density(shape).logpdf(np.concatenate([x, y], 1))
    return both - density(shape[:dx, :dx]).logpdf(x) - density(shape[dx:, dx:]).logpdf(y)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(
            f"{__doc__}\nIt is started by scripts/calibrate.py --peer PYTHON, not by hand."
        )
    serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
