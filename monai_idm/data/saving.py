"""Writes predictions as NIfTI, one file per modality, as in BraTS."""

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, ensure_tuple, ensure_tuple_rep

from monai_idm.atomic_file import atomic_file
from monai_idm.file_stem import UniqueStems

__all__ = ["SaveVolumesd"]

_logger = logging.getLogger(__name__)


class SaveVolumesd(MapTransform):
    """Write each channel to ``<subject>_<modality>.nii.gz``, as float32 (uint8 labels stay uint8), in mm.

    In the file name the subject is its :func:`~monai_idm.file_stem.file_stem`. An older file is replaced in one step.
    Only the affine is kept from the input's header. The data are passed on unchanged.

    Args:
        keys: Keys of the volumes, ``(C, X, Y, Z)``.
        output_dir: Folder to write to; created if missing.
        modalities: Name of each channel.
        output_postfix: Appended to the file names as ``_<postfix>``, one per key; several keys need different ones.
        allow_missing_keys: Skip keys that an item lacks, and items without a subject: MONAI Label and Deploy write
            results themselves and pass none.
    Raises:
        ValueError: If two keys have the same postfix; when called, if channels and modalities differ in number, an
            item has no subject or one with the file name of another subject, or a tensor has no affine.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike,
        modalities: Sequence[str],
        output_postfix: Sequence[str] | str = "",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.modalities = ensure_tuple(modalities)
        self.output_postfix = ensure_tuple_rep(output_postfix, len(self.keys))
        if len(set(self.output_postfix)) < len(self.keys):
            raise ValueError(
                f"output_postfix {self.output_postfix} for the keys {self.keys}; the keys' files must differ "
                "in name: give each key a postfix of its own"
            )
        self._stem = UniqueStems()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.allow_missing_keys and "subject" not in d:
            return d
        for key, postfix in self.key_iterator(d, self.output_postfix):
            volume = d[key]
            if volume.ndim != 4 or len(volume) != len(self.modalities):
                raise ValueError(
                    f"'{key}' has the shape {tuple(volume.shape)}; it must be (C, X, Y, Z), a channel for "
                    f"each of {', '.join(self.modalities)}: correct modalities, or decollate the batch"
                )
            if not isinstance(volume, MetaTensor):
                raise ValueError(
                    f"'{key}' is a plain tensor, which Invertd leaves on the network's grid; it must carry "
                    "an affine: put EnsureTyped before Invertd, or PlaceOnTrainingGridd after pure sampling"
                )
            voxels = convert_to_numpy(volume if volume.dtype == torch.uint8 else volume.float())
            for modality, channel in zip(self.modalities, voxels, strict=True):
                name = "_".join(part for part in (self._subject(d), modality, postfix) if part)
                _write(self.output_dir / f"{name}.nii.gz", channel, volume.affine.cpu().numpy())
        return d

    def _subject(self, data: Mapping[Hashable, Any]) -> str:
        subject = data.get("subject")
        if subject is None or not str(subject).strip("."):
            raise ValueError(f"'subject' is {subject!r}; it must be the name for the files: give it in the datalist")
        return self._stem(subject)


def _write(file: Path, channel: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(channel, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="aligned")  # "aligned": whether to a scanner or to an atlas is unknown
    image.set_qform(affine, code="aligned")
    with atomic_file(file) as unfinished:
        nib.save(image, unfinished)
    _logger.info("wrote %s", file)
