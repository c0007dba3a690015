"""Does our training loop learn as well as lightly's? Both train SimCLR with the small network on
the same images, and the kNN accuracy of both is printed after every fifth epoch.

    python -m scripts.benches.parity FOLDER

FOLDER/{train,test}/CLASS/ hold pictures of 32x32.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core.networks.backbones import Backbone
from core.run.features import Features
from probes.labels.knn import knn
from scripts.benches import loop
from scripts.benches.step import Example, Labelled

CLASSES, TRAIN, TEST = 10, 800, 200  # pictures of a class
BATCH, EPOCHS, NEIGHBOURS = 256, 30, 200
# the mean and deviation with which lightly's transform normalises its views
MEAN, DEVIATION = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
OURS = ["model.backbone=small", "model.temperature=0.5", "optim.warmup_epochs=0"]


def pictures(folder: Path, of_class: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 [n, 3, 32, 32], and labels [n, 1]: the first `of_class` of each class."""
    found = [
        (np.asarray(Image.open(file).convert("RGB")), label)
        for label, one in enumerate(sorted(folder.iterdir())[:CLASSES])
        for file in sorted(one.iterdir())[:of_class]
    ]
    images = torch.from_numpy(np.stack([image for image, _ in found]))
    return images.permute(0, 3, 1, 2).contiguous(), torch.tensor([[label] for _, label in found])


@torch.no_grad()
def top1(network: nn.Module, splits: list[tuple[Tensor, Tensor]], normalised: bool) -> float:
    """kNN accuracy on the second split, with the first as its bank."""
    made = []
    network.eval()
    for images, labels in splits:
        blocks = [block.float() / 255 for block in images.split(500)]
        blocks = [(block - MEAN) / DEVIATION for block in blocks] if normalised else blocks
        features = torch.cat([network(block) for block in blocks])
        made.append(Features(features, labels, (("class", CLASSES),)))
    network.train()
    bank, query = made
    return knn(bank, query, NEIGHBOURS, 0.1)["top1"]


def main() -> None:
    torch.manual_seed(0)
    root, cpu = Path(sys.argv[1]), torch.device("cpu")
    splits = [pictures(root / name, count) for name, count in (("train", TRAIN), ("test", TEST))]
    images = splits[0][0]
    words = [*OURS, f"optim.batch_size={BATCH}"]
    ours, method = loop.epoch_of("simclr_cifar10", words, images, cpu)
    (network,) = (part for part in method.modules() if isinstance(part, Backbone))
    example = Example("small", "cifar")
    loader = DataLoader(Labelled(images), BATCH, shuffle=True, drop_last=True, num_workers=1)
    for epoch in range(1, EPOCHS + 1):
        loss = ours()
        example.losses.clear()
        loop.lightning(example, loader, 1, cpu)
        peer = torch.stack(example.losses).mean().item()
        said = f"epoch {epoch}: mean loss {loss:.3f}, lightly's {peer:.3f}"
        if epoch % 5 == 0:
            scores = top1(network, splits, False), top1(example.backbone, splits, True)
            said += "; kNN {:.1%}, lightly's {:.1%}".format(*scores)
        print(said, flush=True)


if __name__ == "__main__":
    main()
