"""Draw the rooms of the project and the imports between them, read from the source files.

    python -m scripts.checks.architecture        # writes docs/pictures/architecture.png

An arrow means "imports"; it is wider if more modules import. All arrows point down: a room imports
only from rooms on the floors below it.
"""

import ast
import math
import sys
from collections import Counter
from pathlib import Path

import matplotlib

from core.files import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "pictures" / "architecture.png"
PACKAGES = ("configs", "core", "contrastive", "vae", "probes", "scripts")
# The floors from top to bottom. "core" stands for the modules of core that are in no other room.
FLOORS = (
    ("scripts",),
    ("contrastive", "vae", "probes"),
    ("core.foreign",),
    ("core.frozen",),
    ("core.run",),
    ("core.data", "core.information", "core.networks"),
    ("core", "configs"),
)
FRONT = ("core", "core.frozen", "core.loading")  # what `from core import load` needs
BOXES = {  # left, right, bottom, colour
    "scripts": (0.3, 13.7, 10.3, "#5b5b5b"),
    "contrastive": (0.3, 3.4, 8.6, "#0072b2"),
    "vae": (3.8, 7.4, 8.6, "#d55e00"),
    "probes": (7.8, 13.7, 8.6, "#009e73"),
    "core.foreign": (7.4, 11.3, 6.9, "#7f3c8d"),
    "core.frozen": (6.6, 11.3, 5.3, "#3a9bd9"),
    "core.run": (4.4, 11.3, 3.75, "#cc79a7"),
    "core.data": (7.4, 11.3, 2.1, "#d98f00"),
    "core.information": (0.85, 3.9, 2.1, "#332288"),
    "core.networks": (4.2, 7.1, 2.1, "#882255"),
    "core": (0.85, 11.3, 0.45, "#777777"),
    "configs": (12.1, 13.7, 0.45, "#999933"),
}
HEIGHT = 0.95
ABOUT = {
    "scripts": "commands, studies, benches",
    "contrastive": "encoders of two views",
    "vae": "codes with a rate",
    "probes": "measurements of checkpoints",
    "core.foreign": "encoders from elsewhere, exports",
    "core.frozen": "an encoder with its data; `load`",
    "core.run": "config, loop, checkpoint, folder, validation",
    "core.data": "sources, views, identity",
    "core.information": "losses, bounds",
    "core.networks": "encoders, decoders",
    "core": "batch, method, random numbers, errors, files, processes",
    "configs": "packaged YAML",
}


def modules() -> dict[str, Path]:
    """Every module of the project by its full name."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return dict(zip((name.removesuffix(".__init__") for name in names), files, strict=True))


def room(module: str) -> str:
    """The room of a module: a package, or a part of core."""
    package, *inner = module.split(".")
    if module in FRONT:
        return "core.frozen"
    part = ".".join([package, *inner[:1]])
    return part if package == "core" and part in BOXES else package


def imports() -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> number of modules that import something of it."""
    known, found = modules(), Counter[tuple[str, str]]()
    for name, file in known.items():
        targets = {room(target) for target in imported(file, known)} - {room(name)}
        found.update((room(name), target) for target in targets)
    return found


def imported(file: Path, known: dict[str, Path]) -> set[str]:
    """The project's modules that a file imports, also inside of functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else node.module for name in full}
    return names & known.keys()


def floor(name: str) -> int:
    """The number of a room's floor, counted from the top."""
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def draw() -> Figure:
    """All rooms, and an arrow for each import between two of them."""
    figure, axes = plt.subplots(figsize=(14, 11.6))
    axes.set(xlim=(0, 14), ylim=(0, 11.5))
    axes.axis("off")
    core = FancyBboxPatch((0.55, 0.25), 11.0, 7.8, boxstyle="round,pad=0.05", zorder=0)
    core.set(facecolor="#f4f4f4", edgecolor="#cccccc")
    axes.add_patch(core)
    axes.text(0.85, 7.55, "core", fontsize=22, color="#aaaaaa", fontweight="bold")
    axes.text(0.3, 0, "An arrow means: imports. A thick arrow: many imports.", color="#777777")
    edges = imports()
    for source, target in sorted(edges):
        draw_arrow(axes, source, target, edges)
    for name in BOXES:
        draw_box(axes, name)
    return figure


def save(path: Path) -> Path:
    """Write the picture as a PNG that lists its arrows in its description."""
    details = {"Description": "; ".join(f"{a} -> {b}" for a, b in sorted(imports()))}
    figure = draw()
    write_atomically(
        path,
        lambda temporary: figure.savefig(
            temporary, format="png", dpi=110, bbox_inches="tight", metadata=details
        ),
    )
    plt.close(figure)
    return path


def draw_box(axes: Axes, name: str) -> None:
    left, right, bottom, colour = BOXES[name]
    box = FancyBboxPatch((left, bottom), right - left, HEIGHT, boxstyle="round,pad=0.03", zorder=3)
    box.set(facecolor="white", edgecolor=colour, linewidth=2.2)
    axes.add_patch(box)
    middle = (left + right) / 2
    axes.text(
        middle, bottom + 0.62, name, ha="center", va="center", zorder=4,
        fontsize=14, fontweight="bold", color=colour,
    )  # fmt: skip
    axes.text(
        middle, bottom + 0.25, ABOUT[name], ha="center", va="center", zorder=4, fontsize=9.5,
        color="#333333",
    )  # fmt: skip


def draw_arrow(axes: Axes, source: str, target: str, edges: Counter[tuple[str, str]]) -> None:
    """An arrow from the bottom of a room to the top of another one."""
    start = port(source, sorted({b for a, b in edges if a == source}, key=middle), target)
    end = port(target, sorted({a for a, b in edges if b == target}, key=middle), source)
    arrow = FancyArrowPatch(
        (start, BOXES[source][2]), (end, BOXES[target][2] + HEIGHT + 0.04),
        arrowstyle="-|>", mutation_scale=13, zorder=2, color=BOXES[source][3], alpha=0.75,
        linewidth=0.8 + math.log2(edges[source, target]) * 0.45, shrinkA=0, shrinkB=0,
    )  # fmt: skip
    arrow.set_gid(f"{source} -> {target}")
    axes.add_patch(arrow)


def middle(name: str) -> float:
    return BOXES[name][0] + BOXES[name][1]


def port(name: str, others: list[str], other: str) -> float:
    """The x of an arrow's end on a room. Arrows are evenly spread, in the order of their ends."""
    left, right = BOXES[name][:2]
    return left + (right - left) * (others.index(other) + 1) / (len(others) + 1)


if __name__ == "__main__":
    print(save(Path(sys.argv[1]) if sys.argv[1:] else PICTURE))
