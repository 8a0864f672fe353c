"""Weights for evaluation and inference."""

from __future__ import annotations

from ignite.engine import Engine
from monai.handlers import CheckpointLoader

from monai_idm.checkpoints import DamagedFile, require_sound

__all__ = ["CheckedCheckpointLoader"]


class CheckedCheckpointLoader(CheckpointLoader):
    """MONAI's CheckpointLoader, which refuses a file that is damaged.

    PyTorch loads weights with flipped bits as they are, and where it cannot read a file it does not say which.

    Raises:
        DamagedFile: If the file is not what was written.
        FileNotFoundError: If it is not there.
    """

    def __call__(self, engine: Engine) -> None:
        way_out = "copy it from where it was made, or name another file, as with --ckpt_file"
        try:
            require_sound(self.load_path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.load_path} is not there; train first, {way_out}") from None
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {way_out}") from None
        super().__call__(engine)
