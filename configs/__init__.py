"""The packaged configs, which are found by name from any folder."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parent


def find(name: str | Path) -> Path:
    """The path of a config. A file that exists is returned unchanged. Otherwise `name` may name a
    packaged config: `simclr_sprites`, `simclr_sprites.yaml` or `configs/simclr_sprites.yaml`. Any
    other name is returned unchanged.
    """
    given = Path(name)
    packaged = CONFIGS / f"{given.name.removesuffix('.yaml')}.yaml"
    short = given.parent in (Path(), Path("configs"))
    return packaged if short and not given.exists() and packaged.is_file() else given


def names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def head(name: str) -> str:
    """The first line of a packaged config, which says what it trains."""
    with open(CONFIGS / f"{name}.yaml", encoding="utf-8") as file:
        return file.readline().strip("# \n")
