"""What a checkpoint says about itself."""

from monai_idm.checkpoints.record import PHANTOM, RunRecord, fingerprint, read_record, read_weights

__all__ = ["PHANTOM", "RunRecord", "fingerprint", "read_record", "read_weights"]
