"""Reversible 3D diffusion models for MONAI.

Importing this package registers every public class with ``monai.bundle``: a config that says
``imports: ["$import monai_idm"]`` may name them short, as in ``_target_: InvertibleDiffusionUNet``.
"""

from monai_idm import (
    checkpoints,
    data,
    engines,
    handlers,
    inferers,
    losses,
    meters,
    metrics,
    networks,
    optimizers,
    reversible,
    schedulers,
)
from monai_idm.bundle_root import find_bundle_root
from monai_idm.version import __version__

__all__ = [
    "__version__",
    "checkpoints",
    "data",
    "engines",
    "find_bundle_root",
    "handlers",
    "inferers",
    "losses",
    "meters",
    "metrics",
    "networks",
    "optimizers",
    "reversible",
    "schedulers",
]
