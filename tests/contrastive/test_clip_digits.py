"""CLIP on MNIST with captions made of class names: a smoke test of stored images with captions."""

from pathlib import Path

from core.frozen import Frozen
from probes.texts.reader import reader
from probes.texts.zero_shot import ZeroShotProbe
from tests.in_process import CONFIGS, call


def test_digits_are_named_and_reports_say_that_labels_were_used(mnist_root, tmp_path: Path):
    words = ["data.name=mnist", f"data.root={mnist_root}", "data.captions=from_classes"]
    words += ["data.augment=none", "data.validation=55000", "optim.epochs=1", "wandb=disabled"]
    words += ["optim.batch_size=128", "optim.lr=3e-3", "model.vocabulary=64", "model.width=32"]
    words += ["trainer.validate_every=0", f"folder={tmp_path / 'run'}"]
    done = call(str(CONFIGS / "clip_sprites.yaml"), *words)
    assert done.code == 0, done
    frozen = Frozen.load(tmp_path / "run" / "last.ckpt")
    probe = ZeroShotProbe()
    numbers = probe.measure(frozen).numbers
    assert numbers["parts"]["all"]["codes"]["class"]["value"] > 0.6
    assert "this is supervised classification" in probe.sentences(numbers)[-1]
    assert reader(frozen)["labels"]["class"]["top1"] > 0.99  # captions name the class
