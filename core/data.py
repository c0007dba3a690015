"""placeholder until the real one is in"""
from dataclasses import dataclass, field
from core.source import Source
from core.sprites import Sprites, SpritesConfig
@dataclass
class DataConfig:
    name: str = "sprites"
    root: str = "data"
    download: bool = False
    size: int = 0
    augment: str = "simclr"
    validation: int = 2048
    workers: int = 2
    memory: float = 2.0
    sprites: SpritesConfig = field(default_factory=SpritesConfig)
def open_source(config: DataConfig, split: str, seed: int, augmented: bool = True) -> Source:
    return Sprites(config.sprites, split, seed)
