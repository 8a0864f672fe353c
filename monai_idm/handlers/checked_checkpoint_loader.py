"""Load weights for evaluation and inference."""

from __future__ import annotations

from ignite.engine import Engine
from monai.handlers import CheckpointLoader

from monai_idm.checkpoints import DamagedFile, require_sound

__all__ = ["CheckedCheckpointLoader"]


class CheckedCheckpointLoader(CheckpointLoader):
    """MONAI's CheckpointLoader, but it refuses a damaged file.

    PyTorch loads weights with flipped bits without an error, and if it cannot read a file, its error does not name it.
    The arguments are those of MONAI's CheckpointLoader.

    Raises:
        DamagedFile: If the file has changed since it was written.
        FileNotFoundError: If the file is missing.
    """

    def __call__(self, engine: Engine) -> None:
        way_out = "copy it from where it was made, or name another file, for example with --ckpt_file"
        try:
            require_sound(self.load_path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.load_path} does not exist; train first, {way_out}") from None
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {way_out}") from None
        super().__call__(engine)
