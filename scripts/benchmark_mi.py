"""benchmark-mi's tasks and its InfoNCE estimator, which run in a separate environment.

`Peer` is our side. The other side is this same file, run by the Python of that environment, so the
top level may import only the standard library. The other side reads one command per line, and
answers each with one line of JSON.
"""

import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class Peer:
    """Tasks of the catalogue as `Known` pairs, and the peer's estimates with their times."""

    def __init__(self, interpreter: Path, pairs: int, seed: int):
        from core.errors import UserError

        self.folder = tempfile.TemporaryDirectory()
        words = [str(interpreter), __file__, str(pairs), str(seed), self.folder.name]
        try:
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            self.process = subprocess.Popen(words, text=True, **pipes)  # type: ignore[call-overload]
        except OSError as error:
            raise UserError(f"--peer: {interpreter} can not be run ({error.strerror})") from None
        self.names: list[str] = self._answer(f"{interpreter} has no working benchmark-mi")

    def draw(self, name: str) -> Any:
        """The task's pairs as `Known`."""
        import numpy as np

        from probes.samples.benchmark_sources import Known

        answer = self._ask("draw", name)
        with np.load(answer["file"], allow_pickle=False) as file:
            return Known(file["x"], file["y"], file["pointwise"], float(file["information"]))

    def estimate(self, name: str) -> dict[str, float]:
        """`peer` in nats and `peer_seconds`, for the pairs of the last `draw`."""
        return self._ask("estimate", name)

    def _ask(self, command: str, name: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(f"{command} {name}\n")
        self.process.stdin.flush()
        return dict(self._answer(f"failed at {command} {name}"))

    def _answer(self, failure: str) -> Any:
        """The next line of JSON, or a `UserError` with the last line of the peer's own error."""
        from core.errors import UserError

        assert self.process.stdout and self.process.stderr
        if not (line := self.process.stdout.readline()):
            said = self.process.stderr.read().strip().splitlines() or ["it said nothing"]
            raise UserError(f"--peer: {failure} ({said[-1]})")
        return json.loads(line)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
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
            task = catalogue[name.strip()]
            x, y = map(np.asarray, task.sampler.sample(pairs, seed))
            base = task.sampler
            while hasattr(base, "_base_sampler"):  # invertible maps do not change the information
                base = base._base_sampler
            pointwise = _pointwise(base, *map(np.asarray, base.sample(pairs, seed)))
            information = float(task.mutual_information)
            np.savez(path, x=x, y=y, pointwise=pointwise, information=information)
            answer: dict[str, Any] = {"file": str(path)}
        else:
            with np.load(path) as file:
                x, y = file["x"], file["y"]
            began = time.monotonic()
            value = float(InfoNCEEstimator(verbose=False).estimate(x, y))
            answer = {"peer": value, "peer_seconds": time.monotonic() - began}
        print(json.dumps(answer), flush=True)


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
        shape = np.asarray(sampler._dispersion, float)
        density: Any = functools.partial(stats.multivariate_t, df=sampler.df)
    else:
        joint = getattr(sampler, "_joint_distribution", sampler)
        shape = np.asarray(joint._covariance, float)
        density = stats.multivariate_normal
    key = "shape" if kind == "SplitStudentT" else "cov"
    both = density(**{key: shape}).logpdf(np.concatenate([x, y], 1))
    own_x, own_y = density(**{key: shape[:dx, :dx]}), density(**{key: shape[dx:, dx:]})
    return both - own_x.logpdf(x) - own_y.logpdf(y)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(f"{__doc__}\nscripts/calibrate.py --peer PYTHON starts it.")
    serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
