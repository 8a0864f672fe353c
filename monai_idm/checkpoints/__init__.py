"""Checkpoint files, and the record of its training that a checkpoint carries."""

from monai_idm.checkpoints.files import DamagedFile, read_checkpoint, require_sound, write_checkpoint
from monai_idm.checkpoints.record import (
    PHANTOM,
    RunRecord,
    fingerprint,
    grid_is_fixed,
    read_record,
    read_weights,
    warn_of_unrecorded,
)
from monai_idm.checkpoints.signature import differences, read_sections, sign
from monai_idm.checkpoints.split import Case, TrainingSplit
from monai_idm.renamed import renamed

__all__ = [
    "PHANTOM",
    "Case",
    "DamagedFile",
    "RunRecord",
    "TrainingSplit",
    "differences",
    "fingerprint",
    "grid_is_fixed",
    "read_checkpoint",
    "read_record",
    "read_sections",
    "read_weights",
    "require_sound",
    "sign",
    "warn_of_unrecorded",
    "write_checkpoint",
]

__getattr__ = renamed(__name__, {"said_by": "read_sections", "tell_unsaid": "warn_of_unrecorded"})
