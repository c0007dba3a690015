"""Mutual information: training losses, bounds and closed forms.

>>> import torch
>>> from core.information import infonce, nt_xent
>>> first, second = torch.randn(2, 8, 16, requires_grad=True)
>>> nt_xent(first, second, temperature=0.1).backward()  # in your own training loop
"""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:
    from core.information.losses import infonce as infonce
    from core.information.losses import nt_xent as nt_xent

__getattr__, __dir__ = exports(
    __name__, {"nt_xent": "core.information.losses", "infonce": "core.information.losses"}
)
