"""Files of weights and of trainings, and what they say about themselves."""

from monai_idm.checkpoints.files import DamagedFile, read_checkpoint, require_sound, write_checkpoint
from monai_idm.checkpoints.record import (
    PHANTOM,
    RunRecord,
    fingerprint,
    grid_is_fixed,
    read_record,
    read_weights,
    tell_unsaid,
)
from monai_idm.checkpoints.signature import differences, said_by, sign
from monai_idm.checkpoints.split import Case, TrainingSplit

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
    "read_weights",
    "require_sound",
    "said_by",
    "sign",
    "tell_unsaid",
    "write_checkpoint",
]
