"""Files of weights and of trainings, and what they say about themselves."""

from monai_idm.checkpoints.files import DamagedFile, read_checkpoint, require_sound, write_checkpoint
from monai_idm.checkpoints.record import PHANTOM, RunRecord, fingerprint, read_record, read_weights, trained_settings
from monai_idm.checkpoints.split import Case, TrainingSplit

__all__ = [
    "PHANTOM",
    "Case",
    "DamagedFile",
    "RunRecord",
    "TrainingSplit",
    "fingerprint",
    "read_checkpoint",
    "read_record",
    "read_weights",
    "require_sound",
    "trained_settings",
    "write_checkpoint",
]
