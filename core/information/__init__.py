"""Mutual information: training losses, bounds and closed forms.

>>> import torch
>>> from core.information import infonce, nt_xent
>>> first, second = torch.randn(2, 8, 16, requires_grad=True)
>>> nt_xent(first, second, temperature=0.1).backward()  # in your own training loop
>>> from core.information import entropy, kl, mutual_information
>>> entropy([0.5, 0.5], base=2), kl([0.5, 0.5], [1, 0]), mutual_information([[0.5, 0], [0, 0.5]])
(1.0, inf, 0.6931471805599453)
"""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:
    from core.information.atoms import conditional_entropy as conditional_entropy
    from core.information.atoms import cross_entropy as cross_entropy
    from core.information.atoms import entropy as entropy
    from core.information.atoms import jensen_shannon as jensen_shannon
    from core.information.atoms import kl as kl
    from core.information.atoms import mutual_information as mutual_information
    from core.information.atoms import weight_of_evidence as weight_of_evidence
    from core.information.losses import infonce as infonce
    from core.information.losses import nt_xent as nt_xent

ATOMS: tuple[str, ...] = (
    "entropy",
    "cross_entropy",
    "kl",
    "conditional_entropy",
    "mutual_information",
)
ATOMS += ("jensen_shannon", "weight_of_evidence")
__getattr__, __dir__ = exports(
    __name__,
    {"nt_xent": "core.information.losses", "infonce": "core.information.losses"}
    | dict.fromkeys(ATOMS, "core.information.atoms"),
)
