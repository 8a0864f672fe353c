"""Reversible 3D diffusion models for MONAI.

Importing this package registers every public class with ``monai.bundle``: a config that says
``imports: ["$import monai_idm"]`` may name them short, as in ``_target_: InvertibleDiffusionUNet``.
"""

from monai_idm import (
    checkpoints,
    data,
    distributed,
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
    sharding,
)
from monai_idm.bundle_root import find_bundle_root
from monai_idm.version import __version__

__all__ = [
    "__version__",
    "checkpoints",
    "data",
    "distributed",
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
    "sharding",
]
