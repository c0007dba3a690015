"""Predictions of a reader (a classifier of frozen features) on test images, and their information.

n, m = training and test images, Y = classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Reading(NamedTuple):
    """Predictions for one factor."""

    log_probabilities: Tensor  # float64 [m, Y], of the reader
    log_frequency: Tensor  # float64 [Y], of the classes of train; all finite

    def cross_entropy(self, y: Tensor) -> Tensor:
        """-log p(y|x) of each image, float64 [m]: nats that its label costs, given features."""
        return -self.log_probabilities.gather(1, y[:, None])[:, 0]

    def information(self, y: Tensor) -> Tensor:
        """Terms [m] whose mean is the usable information H(Y) - CE in nats (Xu et al. 2020)."""
        return -self.log_frequency[y] - self.cross_entropy(y)

    def top1(self, y: Tensor) -> float:
        """The share of images whose most probable class is y."""
        return (self.log_probabilities.argmax(1) == y).double().mean().item()


def frequency(y: Tensor, classes: int) -> Tensor:
    """Frequencies [Y] of classes; one image is added to each, so that none has probability 0."""
    return (torch.bincount(y, minlength=classes).double() + 1) / (len(y) + classes)


def with_absent(log_probabilities: Tensor, y: Tensor) -> Tensor:
    """A reader's log probabilities [m, Y], float64, in which a class without training images gets
    its frequency, as in the baseline H(Y); y [n] are the labels of train.

    A reader learns that such classes never occur, but the baseline gives them a probability. If
    many classes do not occur, because the numbers of the labels have gaps, this difference alone
    would count as information in the features.
    """
    classes = log_probabilities.shape[1]
    present = torch.bincount(y, minlength=classes) > 0
    if present.all():
        return log_probabilities
    counted = frequency(y, classes).to(log_probabilities.device)
    made = counted.log().repeat(len(log_probabilities), 1)
    seen = log_probabilities[:, present].log_softmax(1)
    made[:, present] = seen + counted[present].sum().log()
    return made


def confusion_counts(predicted: Tensor, y: Tensor, classes: int) -> Tensor:
    """Counts int64 [Y, Y]: row = the true class, column = the predicted one.

    >>> confusion_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return torch.bincount(y * classes + predicted, minlength=classes**2).view(classes, classes)
