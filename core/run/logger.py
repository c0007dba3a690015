"""Logging to Weights & Biases, which never stops a run and never makes it wait."""

import hashlib
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from core.errors import shown
from core.run import config
from core.run.local_loggers import LocalLoggers

PATIENCE = 30  # seconds for a server to answer, at the start (in the background) and at the end
# W&B's options -> the environment variables that it reads if the config does not set them
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
}
Entry = Callable[[Any], object]  # what is done with W&B's run


class Logger:
    """One W&B run, or none with `wandb=disabled`; also CSV and TensorBoard files, if the config
    asks for them.

    All calls to W&B run on one thread, in order, so a server that is slow, refuses or hangs does
    not delay training. Data that the server did not accept stay in the run's folder; `wandb sync`
    sends them. The checkpoint keeps the run's id, so a resumed run is the same W&B run.
    """

    def __init__(self, run: config.RunConfig, folder: Path, wandb_id: str = "", local: bool = True):
        """`local`: also write the files of `LocalLoggers`."""
        self.id = wandb_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        self.data = data_name(run)
        self._local = LocalLoggers(run.trainer, folder) if local else None
        self._seen: dict[str, str] = {}  # name of a picture -> digest of the newest one
        # None marks the end
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.mode, self._options = _mode(run.wandb.mode), self._settings(run, folder)
        self.artifacts = run.wandb.artifacts
        if self.mode != "disabled":
            # W&B's reports about itself would delay the exit by 20 s
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            self._thread = threading.Thread(target=self._work, daemon=True, name="wandb")
            self._thread.start()

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log named numbers at a step."""
        if self._local:
            self._local.metrics(values, step)
        self._put(lambda run: run.log({"step": step, **values}))

    def pictures(self, paths: dict[str, Path], step: int) -> None:
        """Log PNG files by name at a step. A picture that has not changed is not logged again."""
        new = {}
        for name, path in paths.items():
            code = hashlib.sha256(path.read_bytes()).hexdigest()
            if self._seen.get(name) != code:
                self._seen[name], new[name] = code, path
        if self._local:
            self._local.pictures(new, step)
        if self._thread and new:  # read now, because the next validation overwrites the files
            images = {name: Image.open(path).copy() for name, path in new.items()}
            self._put(lambda run: run.log({"step": step, **_as_media(images)}))

    def summary(self, values: dict[str, Any]) -> None:
        """Set named values of the run's summary, which have no chart."""
        self._put(lambda run: run.summary.update(values))

    def table(self, name: str, columns: Sequence[str | int], rows: Sequence[list[Any]]) -> None:
        """Log a table, such as the probe's."""

        def log(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=list(rows))})

        self._put(log)

    def lines(self, name: str, x: str, curves: dict[str, list[tuple[float, float]]]) -> None:
        """Log curves, each a list of (x, y), as one line plot."""

        def log(run: Any) -> None:
            import wandb

            xs = [[point[0] for point in curve] for curve in curves.values()]
            ys = [[point[1] for point in curve] for curve in curves.values()]
            run.log({name: wandb.plot.line_series(xs, ys, list(curves), title=name, xname=x)})

        if curves:
            self._put(log)

    def artifact(self, name: str, kind: str, files: Iterable[Path]) -> None:
        """Upload existing files as an artifact, if `wandb.artifacts`."""
        held = [path for path in files if path.is_file()]

        def log(run: Any) -> None:
            import wandb

            made = wandb.Artifact(_artifact_name(name), kind)
            for path in held:
                made.add_file(str(path), path.name)
            run.log_artifact(made)

        if self.artifacts and held:
            self._put(log)

    def close(self, patience: float = 3 * PATIENCE) -> None:
        """Send the remaining entries; wait at most `patience` seconds for that."""
        if self._local:
            self._local.close()
        if self._thread:
            self._entries.put(None)
            self._thread.join(patience)
            self._thread = None

    def _settings(self, run: config.RunConfig, folder: Path) -> dict[str, Any]:
        asked = run.wandb
        named: dict[str, Any] = {key: getattr(asked, key) for key in VARIABLES if key != "tags"}
        named["tags"] = asked.labels
        defaults = {"project": "twobounds", "name": folder.resolve().name}
        for key, value in defaults.items():
            if not named[key] and not os.environ.get(VARIABLES[key]):
                named[key] = value
        known = {key: value for key, value in named.items() if value}
        place = {} if os.environ.get("WANDB_DIR") else {"dir": str(folder)}
        return {**known, **place, "id": self.id, "resume": "allow", "config": config.to_dict(run)}

    def _put(self, entry: Entry) -> None:
        if self._thread:
            self._entries.put(entry)

    def _work(self) -> None:
        try:
            run = self._start()
            # our own step, because a resumed run may log a step that W&B already has
            run.define_metric("*", step_metric="step")
            while (entry := self._entries.get()) is not None:
                entry(run)
            run.finish()
        except Exception as error:  # training continues after any error of the logger
            _say(f"logging ended ({_reason(error)}); metrics.jsonl holds the numbers")

    def _start(self) -> Any:
        import wandb  # here, because it takes a second and wandb=disabled does not need it
        from wandb.errors import Error as WandbError

        mode = self.mode
        if mode == "auto":
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        try:
            return self._init(mode)
        except (WandbError, TimeoutError, OSError) as error:
            if mode == "offline":
                raise
            reason = f"{mode} logging failed ({_reason(error)})"
            _say(f"{reason}; logging offline instead; `wandb sync` sends the data later")
            # otherwise the service would refuse the id that the failed attempt holds
            wandb.teardown()
            return self._init("offline")

    def _init(self, mode: str) -> Any:
        import wandb

        # Only a server gets a time limit; offline W&B needs seconds of its own on a busy machine.
        limits = {"finish_timeout": PATIENCE}
        limits |= {"init_timeout": PATIENCE} if mode == "online" else {}
        settings = wandb.Settings(silent=True, **limits)  # type: ignore[arg-type]
        run = wandb.init(mode=mode, settings=settings, **self._options)  # type: ignore[arg-type]
        if mode == "online":
            _say(run.url or f"run {self.id}")
        else:
            _say(f"offline; send it with: wandb sync {Path(run.dir).parent}")
        return run


def attach(
    run: config.RunConfig, trained: config.RunConfig, place: Path, wandb_id: str, entity: str
) -> Logger:
    """The logger of the run that trained a checkpoint, for later measurements. `run`: its config
    with the user's overrides, such as other data; W&B keeps the config of the training. `entity`:
    the entity that the checkpoint names. It is only mentioned, because only a user may choose it.
    """
    if entity and not run.wandb.entity and _mode(run.wandb.mode) != "disabled":
        _say(f"the checkpoint names the entity {shown(entity)}; to log there, add wandb.entity=…")
    made = Logger(replace(trained, wandb=run.wandb), place, wandb_id, local=False)
    made.data = data_name(run)
    return made


def data_name(run: config.RunConfig) -> str:
    """The name of a run's data in a log; for a folder, the last part of its path."""
    name = run.data.name.replace("/", "-")
    return f"folder-{Path(run.data.root).resolve().name}" if name == "folder" else name


def _mode(wanted: str) -> str:
    """The mode of W&B: for `auto`, WANDB_MODE decides if it is set."""
    asked = os.environ.get("WANDB_MODE")
    return asked if wanted == "auto" and asked in ("online", "offline", "disabled") else wanted


def _as_media(images: dict[str, Image.Image]) -> dict[str, Any]:
    import wandb

    return {name: wandb.Image(image) for name, image in images.items()}


def _artifact_name(name: str) -> str:
    """A name that W&B accepts: letters, digits, dashes, underscores and dots."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)[:120]


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(line: str) -> None:
    print(f"wandb: {line}", file=sys.stderr, flush=True)
