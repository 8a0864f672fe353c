"""Generates synthetic brains in BraTS folders, for the demo, the tests and the ablations without patient data.

Every head has its own pose, size, folding, ventricles, tumour, bias fields and intensity scales, so that
neither a mean image nor a table of intensities predicts one contrast from another. ``phantom_anatomy`` defines
which tissue is where, ``phantom_contrast`` how each contrast shows it; this module makes voxels and files of them.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from monai_idm.atomic_file import atomic_file, write_json
from monai_idm.data.phantom_anatomy import Anatomy, Field, Points, Waves, build_anatomy
from monai_idm.data.phantom_contrast import CONTRASTS, show_contrast

__all__ = ["Phantom", "generate_phantom", "write_phantoms"]

MODALITIES = tuple(CONTRASTS)
FIELD_OF_VIEW_MM = (240.0, 240.0, 155.0)
SAMPLING_MM = 2.0  # shapes are sampled this densely, then averaged: sulci are narrower than voxels
_THREADS = 4  # at most: each takes some 100 bytes per sample of its head
NOISE = 0.02  # standard deviation, relative to the brightest healthy tissue
RECORD_NAME = "phantoms.json"
GENERATOR = "monai_idm phantom 2"  # the number changes whenever the same seed gives different voxels


@dataclass(frozen=True)
class Phantom:
    """One synthetic head.

    Attributes:
        images: Maps each modality to its voxels, ``(D, H, W)`` int16; 0 in the background and nowhere else.
        label: 0, 1 (core), 2 (oedema) or 4 (enhancing rim) as in BraTS 2020, ``(D, H, W)`` uint8.
        affine: Voxel indices to world coordinates in mm, ``(4, 4)``; orientation LPS.
    """

    images: dict[str, npt.NDArray[np.int16]]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def generate_phantom(
    seed: int,
    spatial_size: Sequence[int] = (240, 240, 155),
    modalities: Sequence[str] = MODALITIES,
) -> Phantom:
    """Generate one head; the same seed gives the same head.

    The field of view is always 240 x 240 x 155 mm: another size shows the same head with different noise. A
    modality does not depend on which others are generated.

    Args:
        seed: A non-negative integer.
        spatial_size: Voxels per axis, at least 16; at 48 x 48 x 32 and above, every label occurs.
        modalities: Some of "t1", "t1ce", "t2", "flair".

    Raises:
        ValueError: If an argument is invalid.
    """
    size = _checked_size(seed, spatial_size, modalities)
    head, texture, *scanners = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(6))
    grid = tuple(n * math.ceil(f / n / SAMPLING_MM) for n, f in zip(size, FIELD_OF_VIEW_MM, strict=True))
    index, scanner_mm, head_mm = _sample_points(head, grid)
    anatomy = build_anatomy(head, head_mm)
    x, y, z = (q[anatomy.inside] for q in scanner_mm)
    voxels = _Voxels(index[anatomy.inside], grid, size)

    waves = Waves(texture, 12, 20.0).quadrature(anatomy.points)
    images = {}
    for modality in modalities:
        rng = scanners[MODALITIES.index(modality)]
        signal = voxels.mean(show_contrast(rng, modality, anatomy, waves, (x, y, z)))
        scale = math.exp(rng.uniform(math.log(400), math.log(1800)))
        noise = NOISE * rng.standard_normal(len(signal), dtype=np.float32)
        image = np.rint(scale * (signal + noise)).astype(np.int16)
        image[image == 0] = 1  # 0 is reserved for the background
        images[modality] = voxels.fill(image)
    return Phantom(images, voxels.fill(_label(anatomy, voxels)), _affine(size))


def write_phantoms(
    directory: str | os.PathLike[str],
    num_subjects: int,
    spatial_size: Sequence[int] = (240, 240, 155),
    seed: int = 0,
    modalities: Sequence[str] = MODALITIES,
) -> Path:
    """Write heads as ``PHANTOM_000/PHANTOM_000_{t1,t1ce,t2,flair,seg}.nii.gz``, int16, and ``phantoms.json``.

    A folder that already holds exactly these files is left as it is. The record ``phantoms.json`` is written last:
    if it is missing, as after an interrupted run, everything is written again. A head does not depend on how many
    heads are written.

    Args:
        directory: Folder to write to: new, empty, or written by the same call before. Hidden files are ignored.
        num_subjects: Number of heads, at least 1.
        spatial_size: Voxels per axis, at least 16.
        seed: A non-negative integer; different seeds give different heads.
        modalities: Some of "t1", "t1ce", "t2", "flair"; the labels are always written.

    Returns:
        The folder.

    Raises:
        ValueError: If an argument is invalid, or the folder holds anything else.
    """
    size = _checked_size(seed, spatial_size, modalities)
    if num_subjects < 1:
        raise ValueError(f"num_subjects is {num_subjects}, but must be at least 1; a split needs 3 or more")
    directory = Path(directory)
    subjects = {f"PHANTOM_{i:03d}": _subject_seed(seed, i) for i in range(num_subjects)}
    record = {
        "note": "synthetic phantoms, not patients: do not mix them with data or report them as such",
        "generator": GENERATOR,
        "seed": int(seed),
        "spatial_size": list(size),
        "modalities": [m for m in MODALITIES if m in modalities],
        "subjects": subjects,
    }
    files = {f"{s}/{s}_{kind}.nii.gz" for s in subjects for kind in (*modalities, "seg")}
    present = _list_files(directory)
    _refuse_foreign_files(directory, present, files, record)
    if present == files | {RECORD_NAME}:
        return directory

    def write(subject: str) -> None:
        phantom = generate_phantom(subjects[subject], size, modalities)
        for kind, voxels in {**phantom.images, "seg": phantom.label.astype(np.int16)}.items():
            path = directory / subject / f"{subject}_{kind}.nii.gz"
            with atomic_file(path) as unfinished:
                unfinished.write_bytes(gzip.compress(_nifti_bytes(voxels, phantom.affine), compresslevel=1, mtime=0))

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        list(tqdm(threads.map(write, subjects), "phantoms", num_subjects, disable=None))
    write_json(directory / RECORD_NAME, record)
    return directory


class _Voxels:
    """The voxels of the brain, each averaged from the samples inside it.

    A voxel belongs to the brain if at least half of its samples do; its value is the mean of those samples.
    """

    def __init__(self, index: npt.NDArray[np.int64], grid: tuple[int, ...], size: tuple[int, ...]) -> None:
        samples = [i // (g // n) for i, g, n in zip(np.unravel_index(index, grid), grid, size, strict=True)]
        self.size = size
        self.owner = np.ravel_multi_index(samples, size)
        self.count = np.bincount(self.owner, minlength=math.prod(size))
        self.brain = np.flatnonzero(self.count * 2 >= math.prod(grid) // math.prod(size))

    def mean(self, samples: npt.NDArray) -> Field:
        """Average ``(M,)`` samples to ``(V,)`` voxels of the brain."""
        total = np.bincount(self.owner, samples, len(self.count))
        return (total[self.brain] / self.count[self.brain]).astype(np.float32)

    def fill(self, values: npt.NDArray) -> npt.NDArray:
        """Put ``(V,)`` values into a volume that is 0 elsewhere."""
        volume = np.zeros(len(self.count), values.dtype)
        volume[self.brain] = values
        return volume.reshape(self.size)


def _sample_points(rng: np.random.Generator, grid: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], Points, Points]:
    """Flat indices of the samples near the head; their scanner and head coordinates in mm."""
    axes = [
        (((np.arange(n) + 0.5) / n - 0.5) * f).astype(np.float32) for n, f in zip(grid, FIELD_OF_VIEW_MM, strict=True)
    ]
    scanner = np.meshgrid(*axes, indexing="ij", sparse=True)
    pose = np.diag(1 / (rng.uniform(0.93, 1.07) * rng.uniform(0.96, 1.04, 3)))
    for plane, limit_deg in (((1, 2), 7), ((0, 2), 5), ((0, 1), 9)):
        angle = math.radians(rng.uniform(-limit_deg, limit_deg))
        turn = np.eye(3)
        turn[np.ix_(plane, plane)] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        pose = pose @ turn
    shift = (rng.uniform(-1, 1, 3) * (6, 8, 2) + (0, 0, 3)).tolist()
    head = [sum(c * (q - s) for c, q, s in zip(row, scanner, shift, strict=True)) for row in pose.tolist()]
    near = (head[0] / 86) ** 2 + (head[1] / 104) ** 2 + (head[2] / 90) ** 2 < 1
    index = np.flatnonzero(near)
    x, y, z = (np.broadcast_to(q, near.shape)[near] for q in scanner)
    return index, (x, y, z), (head[0][near], head[1][near], head[2][near])


def _label(anatomy: Anatomy, voxels: _Voxels) -> npt.NDArray[np.uint8]:
    core, oedema, rim = (voxels.mean(part) for part in (anatomy.core, anatomy.oedema, anatomy.rim))
    return np.array([0, 1, 2, 4], np.uint8)[np.argmax([1 - core - oedema - rim, core, oedema, rim], axis=0)]


def _affine(size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """The affine of BraTS at 240 x 240 x 155; at other sizes the same edges with another voxel size."""
    spacing = np.array(FIELD_OF_VIEW_MM) / size
    first_centre = np.array([-1, -1, 1]) * (spacing / 2 - 0.5) + (0, 239, 0)
    return np.block([[np.diag([-1, -1, 1] * spacing), first_centre[:, None]], [np.zeros(3), 1.0]])


def _nifti_bytes(voxels: npt.NDArray[np.int16], affine: npt.NDArray[np.float64]) -> bytes:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    return image.to_bytes()


def _list_files(directory: Path) -> set[str]:
    """Paths of the files in the folder and in its subfolders, without hidden ones."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file, but phantoms need a folder; name another directory")
    entries = [p for p in directory.glob("*") if not p.name.startswith(".")]
    paths = [p for p in entries if not p.is_dir()]
    for folder in (p for p in entries if p.is_dir()):  # an empty one may be left by an interrupted run
        paths += [p for p in folder.iterdir() if not p.name.startswith(".")]
    return {p.relative_to(directory).as_posix() for p in paths}


def _refuse_foreign_files(directory: Path, present: set[str], files: set[str], record: dict) -> None:
    remedy = "delete the folder or name another directory"
    if RECORD_NAME in present:
        try:
            existing = json.loads((directory / RECORD_NAME).read_text())
        except ValueError:
            existing = None
        if not isinstance(existing, dict):
            raise ValueError(f"{directory / RECORD_NAME} is not a record of phantoms; {remedy}")
        different = sorted(k for k in record.keys() | existing.keys() if record.get(k) != existing.get(k))
        if different:
            raise ValueError(
                f"{directory} holds phantoms with other settings: {RECORD_NAME} differs in "
                f"{', '.join(different)}, and a folder is written only once; {remedy}"
            )
    foreign = sorted(present - files - {RECORD_NAME})
    if foreign:
        raise ValueError(
            f"{directory} holds {len(foreign)} files besides these phantoms, the first {foreign[0]}; "
            f"phantoms must not be mixed with other files; {remedy}"
        )


def _subject_seed(seed: int, index: int) -> int:
    # not seed + index: seeds 0 and 1 would share heads, which could land in different parts of a split
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _checked_size(seed: int, spatial_size: Sequence[int], modalities: Sequence[str]) -> tuple[int, ...]:
    if seed < 0:
        raise ValueError(f"seed is {seed}, but must not be negative; choose 0 or any larger integer")
    if len(set(modalities)) != len(modalities) or not modalities or not set(modalities) <= set(MODALITIES):
        raise ValueError(f"modalities are {modalities}, but must be some of {MODALITIES}, each named once")
    size = tuple(int(n) for n in spatial_size)
    if len(size) != 3 or min(size) < 16:
        raise ValueError(f"spatial_size is {size}, but must be 3 axes of 16 voxels or more; try (64, 64, 48)")
    return size
