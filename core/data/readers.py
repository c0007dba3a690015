"""The official train and test splits of stored data sets: torchvision's, folders, timm's."""

import contextlib
import functools
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch.utils.data import Dataset

from core.data.broken import said_of_broken
from core.data.hub_sets import open_hub
from core.data.notes import printable
from core.data.pictures import open_pictures
from core.data.pixels import read_file
from core.data.tars import open_tars
from core.errors import UserError

# data.name -> class in torchvision.datasets; to add a similar set, add one line
TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "stl10": "STL10",
}
PREFIXES = ("hfds/", "wds/", "tfds/", "torch/")  # timm's prefixes for other sources
PAIRS = ("hfds/", "wds/")  # those that may hold captions
PACKAGES = {"hfds": "datasets", "wds": "webdataset", "tfds": "tensorflow-datasets"}


def open_official(
    name: str,
    root: str,
    download: bool,
    split: str,
    listed: str = "",
    labels: str = "auto",
    captions: str = "",
) -> Dataset[Any]:
    """The official train or test split. Its images are not decoded yet, if possible.

    `root` is a local folder; `listed`, `labels` and `captions` are keys of `data`. Raises
    `UserError` if the data can not be read.
    """
    place = local_folder(root)
    try:
        with _one_at_a_time(place) if download else contextlib.nullcontext():
            if name in TORCHVISION:
                return _open_torchvision(_torchvision(name), place, download, split)
            if name == "folder":
                return open_pictures(place, listed, labels, captions)
            if captions:
                return _open_pairs(name, place, download, captions)
            return _open_timm(name, place, download, split)
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        raise UserError(
            f"data.name: '{name}' needs a package that is not installed ({error}); pip install it"
        ) from None
    except Exception as error:  # anything that a foreign reader raises for damaged files
        if "Please install" in str(error):  # timm's message for a missing package
            raise UserError(
                f"data.name: '{name}' needs a package that is not installed; pip install"
                f" {PACKAGES[name.split('/')[0]]}"
            ) from None
        if name in TORCHVISION and (broken := said_of_broken(_torchvision(name), place)):
            raise UserError(f"data.root: {name} ({split}): {broken}") from None
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        raise UserError(
            f"data.root: {name} ({split}) could not be read from {printable(place)}; put the files"
            " there, name another data.root, or let them be fetched with data.download=true"
            f" ({reason})"
        ) from None


def local_folder(root: str) -> Path:
    """The absolute path of a folder, which need not exist; `UserError` if it can not be a folder.

    Because it is absolute, no reader takes it for an address or a command ("s3:", "pipe:").
    """
    try:
        path = Path(os.path.abspath(Path(root).expanduser()))
        is_file = path.exists() and not path.is_dir()
    except RuntimeError:
        raise UserError(
            f"data.root: {printable(root)}: there is no such user; write the path in full"
        ) from None
    except (OSError, ValueError) as error:  # a parent is a file, the name is too long, or has a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"data.root: {printable(root)} can not be used ({reason})") from None
    if "\0" in root:
        raise UserError(f"data.root: {printable(root)} can not be used (embedded null byte)")
    if is_file:
        raise UserError(f"data.root: {printable(path)} is a file; name the folder of the data set")
    return path


def class_names(train: Any) -> tuple[str, ...]:
    """The names of the classes in the order of their labels; empty if the set has none."""
    numbers = getattr(getattr(train, "reader", None), "class_to_idx", None) or {}
    named = getattr(train, "classes", None) or sorted(numbers, key=numbers.__getitem__)
    return tuple(str(name) for name in named)


def _open_pairs(name: str, root: Path, download: bool, captions: str) -> Any:
    """Pictures with captions, all splits in one set."""
    kind, _, rest = name.partition("/")
    if kind == "wds":
        return open_tars(root, rest, captions)
    with contextlib.nullcontext() if download else _offline():
        return open_hub(rest, root, captions)


def _torchvision(name: str) -> Any:
    """The class of a set."""
    from torchvision import datasets

    return getattr(datasets, TORCHVISION[name])


def _open_torchvision(make: Any, root: Path, download: bool, split: str) -> Any:
    # most sets have a `train` option, some have the split's name
    if "train" in inspect.signature(make).parameters:
        return make(str(root), train=split == "train", download=download)
    return make(str(root), split=split, download=download)


def _one_at_a_time(root: Path) -> contextlib.AbstractContextManager[Any]:
    """A lock: the first of several processes downloads the files, and the others find them."""
    root.mkdir(parents=True, exist_ok=True)
    if os.access(root, os.W_OK):
        return FileLock(root / ".download.lock")
    return contextlib.nullcontext()


def _open_timm(name: str, root: Path, download: bool, split: str) -> Any:
    """A set under timm's own name, not decoded. Its test split is "test" or else "validation"; for
    torch/ sets it is "validation".
    """
    from timm.data import ImageDataset, create_dataset
    from torchvision.datasets import DatasetFolder

    open_part = functools.partial(
        create_dataset, name, root=str(root), download=download, input_img_mode=""
    )
    with contextlib.nullcontext() if download or not name.startswith("hfds/") else _offline():
        if split == "train" or name.startswith("torch/"):
            dataset = open_part(split="train" if split == "train" else "validation")
        else:
            try:
                dataset = open_part(split="test")
            except (RuntimeError, ValueError):
                dataset = open_part(split="validation")
    if isinstance(dataset, ImageDataset):
        # without this, timm uses the next image in place of one that it can not decode
        dataset.load_bytes = True
    if isinstance(dataset, DatasetFolder):
        dataset.loader = read_file
    return dataset


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Make Hugging Face's library use only local files. Its loader has no option for this, only a
    switch for the whole library.
    """
    from huggingface_hub import constants as hub

    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        import datasets as hugging_face

        hugging_face.config.HF_HUB_OFFLINE, kept = True, before
        try:
            yield
        finally:
            hugging_face.config.HF_HUB_OFFLINE = kept
    finally:
        hub.HF_HUB_OFFLINE = before
