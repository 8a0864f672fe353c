"""What a checkpoint says about itself."""

from monai_idm.checkpoints.record import PHANTOM, RunRecord, fingerprint, read_record

__all__ = ["PHANTOM", "RunRecord", "fingerprint", "read_record"]
