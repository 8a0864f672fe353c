"""Writes inpainted volumes as copies of the input's files, in which only the hole's voxels differ."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, ensure_tuple

from monai_idm.atomic_file import atomic_file
from monai_idm.file_stem import UniqueStems

__all__ = ["SaveInpaintedd"]

_logger = logging.getLogger(__name__)


class SaveInpaintedd(MapTransform):
    """Write ``<subject>_<modality>_inpainted.nii.gz``: the file that was read, with other voxels in the hole.

    Every other byte of the file, uncompressed, is as it was: header, scaling, and the voxels around the hole. New
    voxels are stored in the file's own data type, rounded and limited to its range if it holds integers. Where one 4D
    file holds all contrasts, the copy is ``<subject>_inpainted.nii.gz``.

    Args:
        keys: Keys of the inpainted volumes, ``(C, X, Y, Z)``, on the grid and in the intensities of the files.
        output_dir: Folder to write to; created if missing.
        modalities: Name of each channel.
        hole_key: Key of the hole on the files' grid, ``(1, X, Y, Z)``, above 0 inside.
        files_key: Key of the paths of the files, one for each channel. Items without a subject are skipped: MONAI Label
            and Deploy write results themselves.
    Raises:
        ValueError: When called, if the volume has another shape than the files.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        modalities: Sequence[str],
        hole_key: str = "hole",
        files_key: str = "files",
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.modalities = ensure_tuple(modalities)
        self.hole_key = hole_key
        self.files_key = files_key
        self._stem = UniqueStems()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if "subject" not in d:
            return d
        files = [str(file) for file in d[self.files_key]]
        indices = [None if i is None else int(i) for i in d.get("channels", [None] * len(files))]
        hole = convert_to_numpy(d[self.hole_key])[0] > 0
        for key in self.key_iterator(d):
            channels = convert_to_numpy(d[key]).astype(np.float64)
            for file in dict.fromkeys(files):
                places = [i for i, other in enumerate(files) if other == file]
                several = [self.modalities[i] for i in places] if indices[places[0]] is None else []
                target = "_".join([self._stem(str(d["subject"])), *several, "inpainted"])
                _write(self.output_dir / f"{target}.nii.gz", file, [(indices[i], channels[i]) for i in places], hole)
        return d


def _write(
    target: Path, source: str, channels: Sequence[tuple[int | None, npt.NDArray[Any]]], hole: npt.NDArray[np.bool_]
) -> None:
    image: Any = nib.load(source)
    stored = image.dataobj
    content = bytearray(_uncompressed(Path(source)))
    voxels = np.ndarray(stored.shape, stored.dtype, content, stored.offset, order="F")
    for index, values in channels:
        part = voxels if index is None else voxels[..., index]
        if values.shape != hole.shape or part.size != hole.size:
            raise ValueError(
                f"a volume of {values.shape} voxels and a hole of {hole.shape} do not fit into {source}, "
                f"{stored.shape}; both must be on the file's grid: put ToNatived before"
            )
        new = (values[hole] - stored.inter) / stored.slope
        if np.issubdtype(stored.dtype, np.integer):
            limits = np.iinfo(stored.dtype)
            new = new.round().clip(limits.min, limits.max)
        part.reshape(hole.shape)[hole] = new
    with atomic_file(target) as unfinished:
        unfinished.write_bytes(gzip.compress(content, mtime=0))  # no time in it: equal results are equal files
    _logger.info("wrote %s", target)


def _uncompressed(file: Path) -> bytes:
    content = file.expanduser().read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
