"""Probe saved checkpoints: labels (linear, kNN), information between views (InfoNCE), geometry, rate and distortion, the rate head.

    python scripts/probe.py runs/simclr_sprites
    python scripts/probe.py runs/*/last.ckpt data.root=/data --probes linear,knn

A checkpoint holds its config, so its path is enough. Beside it appear probe/probe.json (schema: probes/report.py), probe/*.png and the
features; the numbers are logged to the W&B run that made the checkpoint.
"""

import core  # noqa: F401
from core import checkpoint, config, logger
from core.data import open_source
from core.errors import UserError, exit_cleanly
from core.features import cached_features
from core.folder import RunFolder, make_folder
from core.method import LatentModel, Method
from core.pictures import save_grid
from core.source import Source, reading_order

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console

from probes import figures, report
from probes.geometry import geometry
from probes.information import information
from probes.knn import PRESETS, Neighbours, knn, search
from probes.linear import linear
from probes.rate import rate
from probes.rate_head import rate_head

DEFAULT = ("linear", "knn", "information", "geometry", "rate")
PROBES = (*DEFAULT, "rate_head")  # a minute or two a checkpoint, so only where it is asked for


@exit_cleanly
def main() -> None:
    options = arguments()
    console = Console(highlight=False, soft_wrap=True)
    device = usable_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reports = []
    for path in [find(Path(target), options.best) for target in options.targets]:
        started = time.monotonic()
        found = probe(path, options.overrides, options.probes, options.seed, device, console)
        console.print("\n".join(report.details(found)))
        console.print(f"  {path.parent / 'probe'} · {time.monotonic() - started:.0f} s\n")
        reports.append(found)
    Console(width=max(console.width, 150), highlight=False).print(report.table(reports))


def probe(path: Path, overrides: list[str], wanted: list[str], seed: int, device: torch.device, console: Console) -> report.Report:
    """Everything that is asked about one checkpoint."""
    method, run, step = checkpoint.load_method(path, device)
    run = config.override(run, overrides, str(path))
    if overrides:
        refuse_other_images(method, open_source(run.data, "test", run.seed, augmented=False).shape)
    folder = path.parent / "probe"
    make_folder(folder, "probe", "it writes beside the checkpoint, so copy that first")
    found: report.Report = {
        "format": report.FORMAT,
        "checkpoint": str(path),
        "digest": checkpoint.digest(path),
        "method": run.method,
        "step": step,
    }
    found |= {"data": run.data.name, "seed": seed}
    pictures = {}
    if {"linear", "knn"} & set(wanted):
        console.print(f"{path}: features …", style="dim")
        train, test = (cached_features(path, method, run, split, device) for split in ("trainval", "test"))
        if "knn" in wanted:
            nearest = search(train.x, test.x, max(k for k, _ in PRESETS.values()), device if device.type == "cuda" else None)
            found["knn"] = {preset: knn(train, test, *values, nearest) for preset, values in PRESETS.items()}
            pictures["neighbours"] = neighbours(run, nearest, folder / "neighbours.png")
        if "linear" in wanted:
            console.print(f"{path}: linear probe …", style="dim")
            found["linear"] = linear(train, test, seed)
    viewed = config.for_information(run)
    if {"information", "geometry"} & set(wanted) and not viewed.data.views_differ:
        console.print(f"{path}: two views would be the same image: no information between them, no alignment; set data.probe_augment=crop")
    elif "information" in wanted:
        console.print(f"{path}: information between views …", style="dim")
        found["information"] = information(method, viewed, seed, device)
        figures.sweep(found, folder / "infonce.png")
        pictures["infonce"] = folder / "infonce.png"
    if "geometry" in wanted:
        console.print(f"{path}: geometry …", style="dim")
        found["geometry"] = geometry(method, viewed, seed, device)
    if "rate" in wanted and isinstance(method, LatentModel):
        console.print(f"{path}: rate and distortion …", style="dim")
        found["rate"] = rate(method, run, seed, device)
    if "rate_head" in wanted:
        console.print(f"{path}: rate head …", style="dim")
        found["rate_head"] = rate_head(method, run, seed, device)
        figures.rate_distortion([found], folder / "rate_distortion.png")
        pictures["rate_distortion"] = folder / "rate_distortion.png"
    found = report.with_earlier(found, folder / "probe.json")
    report.save(found, folder / "probe.json")
    log(path, found, pictures)
    return found


def refuse_other_images(method: Method, shape: tuple[int, int, int]) -> None:
    """`UserError` where a method can not read images of shape (C, H, W): a VAE reads its own size alone, an encoder its own channels."""
    if shape[0] != method.shape[0] or (isinstance(method, LatentModel) and shape != method.shape):
        given, own = ("x".join(map(str, sides)) for sides in (shape, method.shape))
        raise UserError(
            f"data: its images are {given} (channels, height, width), and the checkpoint reads {own}; name other data or data.size"
        )


def neighbours(run: config.RunConfig, nearest: Neighbours, path: Path) -> Path:
    """A row for each of eight test images: itself, then its nearest training images."""
    train, test = (open_source(run.data, split, run.seed, augmented=False) for split in ("trainval", "test"))
    chosen = torch.arange(8) * len(test) // 8
    found = nearest.first(9).place[chosen]

    def picture(source: Source, index: torch.Tensor) -> torch.Tensor:
        order = ((i[None], draws) for i, (_, draws) in zip(index, reading_order(len(index), run.seed, 1, purpose="features"), strict=True))
        return torch.cat([batch.views[0] for batch in source.batches(order, 1)])

    return save_grid(path, [torch.cat([picture(test, i[None]), picture(train, row)]) for i, row in zip(chosen, found, strict=True)])


def log(path: Path, found: report.Report, pictures: dict[str, Path]) -> None:
    """The table, the headline numbers and the pictures, into the W&B run that made the checkpoint."""
    made = logger.attach(path)
    made.table("probe", [*report.HEAD], [report.row(found)])
    numbers = {f"probe/linear/{k}": v for k, v in found.get("linear", {}).items()}
    numbers |= {f"probe/{preset}": values["top1"] for preset, values in found.get("knn", {}).items()}
    numbers |= {f"probe/infonce/{k}": v["sweep"][-1]["bound"] for k, v in found.get("information", {}).get("critics", {}).items()}
    numbers |= {f"probe/{k}": found["rate"][k]["value"] for k in ("rate", "distortion", "nelbo", "lower", "upper") if "rate" in found}
    for space in {"features", "codes"} & found.get("geometry", {}).keys():
        numbers |= {f"probe/geometry/{space}/{k}": v for k, v in found["geometry"][space].items()}
    numbers |= {
        f"probe/rate_head/{name}_beta{point['beta']:g}": point[name]["value"]
        for point in found.get("rate_head", {}).get("points", [])
        for name in ("rate", "distortion")
    }
    made.metrics(numbers, found["step"])
    made.pictures({f"probe/{name}": file for name, file in pictures.items()}, found["step"])
    made.close()


def find(target: Path, best: bool) -> Path:
    """The checkpoint that a run folder or a file means."""
    if not target.is_dir():
        return target
    folder = RunFolder(target)
    path = folder.best if best else folder.last
    if not path.is_file():
        raise UserError(f"{target}: holds no {path.name}; give a run folder or a checkpoint")
    return path


def usable_device(name: str) -> torch.device:
    """The device of that name; `UserError` where this machine has none."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device: '{name}' can not be used here ({str(error).splitlines()[0]})") from None
    return torch.device(name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="RUN_OR_CKPT",
        help="run folders (their last.ckpt) or checkpoints; key=value overrides, such as data.root=/data, may stand among them",
    )
    parser.add_argument("--best", action="store_true", help="of a run folder, take best.ckpt")
    parser.add_argument(
        "--probes",
        default=",".join(DEFAULT),
        help=f"which of {', '.join(PROBES)}, separated by commas (default: %(default)s; rate is for VAEs)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the views, the critics and the held-out tenth (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    options = parser.parse_intermixed_args()
    options.overrides = [word for word in options.targets if "=" in word and not Path(word).exists()]
    options.targets = [word for word in options.targets if word not in options.overrides]
    options.probes = options.probes.split(",")
    for word in options.overrides:
        if not word.startswith("data."):
            raise UserError(f"'{word}': a checkpoint's config is fixed; only data.* can be overridden, such as data.root=/data")
    if not options.targets:
        raise UserError("give at least one run folder or checkpoint")
    for word in options.probes:
        if word not in PROBES:
            raise UserError(f"--probes: there is no '{word}'; choose among {', '.join(PROBES)}")
    return options


if __name__ == "__main__":
    main()
