"""The stacker: gradient boosting over features and out-of-fold image evidence. Imports core and
tabular only.
"""

from isic.stack.fit import fit_stack
from isic.stack.model import Stack

__all__ = ["Stack", "fit_stack"]
