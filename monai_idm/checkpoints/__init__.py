"""What a checkpoint says about itself."""

from monai_idm.checkpoints.record import PHANTOM, RunRecord, read_record

__all__ = ["PHANTOM", "RunRecord", "read_record"]
