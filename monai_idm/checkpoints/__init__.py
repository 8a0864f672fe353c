"""Files of weights and of trainings, and what they say about themselves."""

from monai_idm.checkpoints.files import DamagedCheckpoint, read_checkpoint, write_checkpoint, write_weights
from monai_idm.checkpoints.record import PHANTOM, RunRecord, fingerprint, read_record, read_weights

__all__ = [
    "PHANTOM",
    "DamagedCheckpoint",
    "RunRecord",
    "fingerprint",
    "read_checkpoint",
    "read_record",
    "read_weights",
    "write_checkpoint",
    "write_weights",
]
