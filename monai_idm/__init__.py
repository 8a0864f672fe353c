"""Reversible 3D diffusion models for MONAI.

Importing this package registers every public class with ``monai.bundle``: a config with
``imports: ["$import monai_idm"]`` may use short names, as in ``_target_: InvertibleDiffusionUNet``.
"""

try:
    from monai_idm import (
        checkpoints,
        data,
        distributed,
        handlers,
        inferers,
        losses,
        meters,
        metrics,
        networks,
        optimizers,
        reversible,
        schedulers,
        tasks,
    )
except ModuleNotFoundError as error:  # a packaged bundle contains this code, but not what it requires
    package = str(error.name).partition(".")[0]
    raise ModuleNotFoundError(
        f"monai_idm needs {package}, which is not installed; pip install monai nibabel pytorch-ignite nvidia-ml-py "
        f"tensorboard matplotlib scipy tqdm",
        name=error.name,
    ) from error
from monai_idm.bundle_root import find_bundle_root
from monai_idm.failures import install_error_report
from monai_idm.host_memory import keep_freed_memory
from monai_idm.knobs import check_paths, parsed, read_knobs
from monai_idm.renamed import renamed
from monai_idm.trained import TrainedModel
from monai_idm.version import __version__, require_version

__all__ = [
    "TrainedModel",
    "__version__",
    "check_paths",
    "checkpoints",
    "data",
    "distributed",
    "find_bundle_root",
    "handlers",
    "inferers",
    "install_error_report",
    "keep_freed_memory",
    "losses",
    "meters",
    "metrics",
    "networks",
    "optimizers",
    "parsed",
    "read_knobs",
    "require_version",
    "reversible",
    "schedulers",
    "tasks",
]

__getattr__ = renamed(__name__, {"tell_plainly": "install_error_report"})
