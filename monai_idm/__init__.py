"""Reversible 3D diffusion models for MONAI.

Importing this package registers every public class with ``monai.bundle``: a config that says
``imports: ["$import monai_idm"]`` may name them short, as in ``_target_: InvertibleDiffusionUNet``.
"""

try:
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
    )
except ModuleNotFoundError as error:  # where a bundle is run that brings this code, as by a server
    package = str(error.name).partition(".")[0]
    raise ModuleNotFoundError(
        f"monai_idm needs {package}, which is not here; pip install monai nibabel pytorch-ignite nvidia-ml-py "
        f"tensorboard matplotlib scipy tqdm",
        name=error.name,
    ) from error
from monai_idm.bundle_root import find_bundle_root
from monai_idm.config_paths import require_plain_paths
from monai_idm.failures import tell_plainly
from monai_idm.version import __version__, require_version
from monai_idm.words import read_words

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
    "read_words",
    "require_plain_paths",
    "require_version",
    "reversible",
    "schedulers",
    "tell_plainly",
]
