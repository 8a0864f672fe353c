r"""Reads MedMNIST's 3D data sets: one NPZ file with the volumes, the classes and the split of a data set.

For each ``part`` of ``train, val, test``, a file holds ``part_images``, uint8 ``(N, S, S, S)`` with S = 28 or 64, and
``part_labels``, ``(N, 1)``. The volumes need hold neither air nor a brain, so a fixed range of intensities takes the
place of a window:

.. math:: v \in [0, 255] \mapsto v / 255.

Source: Yang et al. 2023, Scientific Data 10, 41, "MedMNIST v2".
"""

from __future__ import annotations

import csv
import json
import os
import zipfile
import zlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from monai_idm.atomic_file import atomic_file, write_json
from monai_idm.data.datalist import PARTS
from monai_idm.data.grid import FitToGridd
from monai_idm.data.intensity import ScaleToNetworkRanged
from monai_idm.data.nifti import read_volume

__all__ = ["LoadCubed", "medmnist_classes", "medmnist_grid", "unpack_medmnist"]

_PARTS = dict(zip(PARTS, ("train", "val", "test"), strict=True))
_NAMES = {  # of the classes, by the name of the file without its size
    "adrenalmnist3d": ("normal", "hyperplasia"),
    "fracturemnist3d": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "nodulemnist3d": ("benign", "malignant"),
    "organmnist3d": (
        *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder"),
        *("heart", "lung-right", "lung-left", "spleen", "pancreas"),
    ),
    "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
    "vesselmnist3d": ("vessel", "aneurysm"),
}
_RECORD = "medmnist.json"
_GRID_STEP = 32  # voxels; divides the grids of all presets


class _Part(NamedTuple):
    images: npt.NDArray[np.uint8]  # (N, S, S, S)
    classes: list[int]


class LoadCubed(MapTransform):
    """Load a volume of an unpacked MedMNIST3D file and bring it onto the network's grid and into its range.

    Args:
        keys: Keys of the paths, one in a list each; they become MetaTensors ``(1, X, Y, Z)``.
        spatial_size: Voxels of the grid, one number or three; the volume is resized to it.
        network_range: Values of the intensities 0 and 255 for the network.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int] | int,
        network_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(keys)
        self.settings = {
            "network_range": list(network_range),
            "zoom": True,
            "spatial_size": [int(n) for n in ensure_tuple_rep(spatial_size, 3)],
        }
        """The settings that the voxels of the result depend on."""
        self.steps = (FitToGridd(keys, spatial_size), ScaleToNetworkRanged(keys, *network_range))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            volume = read_volume(d[key][0])
            d[key] = volume / 255
        for step in self.steps:
            d = step(d)
        image = d[self.keys[0]]
        d["mask"] = MetaTensor(torch.ones_like(image.as_tensor()), affine=image.affine)  # all of it counts
        return d


def unpack_medmnist(file: str | os.PathLike[str] | None, folder: str | os.PathLike[str]) -> str:
    """Unpack a MedMNIST3D file into a folder of cases in BraTS's layout, with its split and its classes.

    A folder that holds the file already is left as it is, and an interrupted unpacking is done again.

    Args:
        file: The NPZ file.
        folder: Folder to unpack into.
    Returns:
        A folder in ``folder``, with the name of the file: in it ``<case>/<case>_image.nii.gz``, with voxels of 1 mm,
        since a file says nothing of their size; ``datalist.json``, the split; and ``classes.csv``.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a MedMNIST3D file, or ``folder`` holds another file of its name.
    """
    path = _existing(file)
    root = Path(folder, path.stem)
    with idist.one_rank_first():  # rank 0 writes, the others find it
        with _opened(path) as content:
            checksums = {entry.filename: entry.CRC for entry in content.infolist()}
        record = root / _RECORD
        if record.is_file():
            if json.loads(record.read_text())["checksums"] != checksums:
                raise ValueError(
                    f"{root} holds another file that was also called {path.name}; delete this folder, or choose "
                    f"another --output_dir"
                )
            return str(root)
        parts = _read(path)
        names = _class_names(path, parts.values())
        _write(root, path.stem, parts, names)
        side = parts["training"].images.shape[1]
        write_json(
            record, {"file": path.name, "side": side, "classes": names, "checksums": checksums}
        )  # last: complete
    return str(root)


def medmnist_classes(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the classes of an unpacked file, in the order of their numbers.

    Args:
        folder: The folder that :func:`unpack_medmnist` returned.
    """
    return json.loads(Path(folder, _RECORD).read_text())["classes"]


def medmnist_grid(folder: str | os.PathLike[str]) -> list[int]:
    """The grid for the volumes of an unpacked file: their sides, rounded up to a multiple of 32 voxels.

    Args:
        folder: The folder that :func:`unpack_medmnist` returned.
    """
    side = json.loads(Path(folder, _RECORD).read_text())["side"]
    return [-(-side // _GRID_STEP) * _GRID_STEP] * 3


def _existing(file: str | os.PathLike[str] | None) -> Path:
    if file is None:
        raise ValueError("no file is given; give a MedMNIST3D file, as in --dataset_dir synapsemnist3d_64.npz")
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not a file; give a MedMNIST3D file, as in --dataset_dir synapsemnist3d_64.npz"
        )
    return path


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is not an NPZ file, or is damaged; download it again") from None


def _read(path: Path) -> dict[str, _Part]:
    """The parts of a file, each checked."""
    wanted = {part: (f"{name}_images", f"{name}_labels") for part, name in _PARTS.items()}
    try:
        with np.load(path) as content:
            arrays = {key: content[key] for keys in wanted.values() for key in keys if key in content}
            held = ", ".join(content) or "nothing"
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); download it again") from None
    if missing := [key for keys in wanted.values() for key in keys if key not in arrays]:
        raise ValueError(f"{path} holds {held}, but no {', '.join(missing)}; give a file of MedMNIST3D")
    parts = {part: _checked(path, *keys, *(arrays[key] for key in keys)) for part, keys in wanted.items()}
    sides = {part.images.shape[1] for part in parts.values()}
    if len(sides) > 1:
        raise ValueError(f"{path} holds volumes of different sizes, {sorted(sides)}; all must have the same")
    return parts


def _checked(path: Path, image_key: str, label_key: str, images: Any, labels: Any) -> _Part:
    if images.ndim != 4 or len({*images.shape[1:]}) != 1 or images.dtype != np.uint8 or not images.size:
        raise ValueError(
            f"{image_key} of {path} is {images.dtype} of shape {images.shape}; it must be uint8, (N, S, S, S), with at "
            f"least one volume: give a file of MedMNIST3D (a 2D one cannot be used)"
        )
    if labels.shape not in ((len(images), 1), (len(images),)) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"{label_key} of {path} is {labels.dtype} of shape {labels.shape}; it must be one class number, 0 or more, "
            f"for each of the {len(images)} volumes"
        )
    return _Part(images, labels.ravel().tolist())


def _class_names(path: Path, parts: Iterable[_Part]) -> list[str]:
    """Names of MedMNIST's data sets, numbers for all others."""
    count = 1 + max(max(part.classes) for part in parts)
    known = _NAMES.get(path.stem.lower().split("_")[0], ())
    return list(known) if len(known) >= count else [str(number) for number in range(count)]


def _write(root: Path, stem: str, parts: Mapping[str, _Part], names: Sequence[str]) -> None:
    """Write the cases, then the tables that name them."""
    split: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    rows = []
    for part, (images, classes) in parts.items():
        for number, (volume, label) in enumerate(zip(images, classes, strict=True)):
            case = f"{stem}-{_PARTS[part]}-{number:05d}"
            with atomic_file(root / case / f"{case}_image.nii.gz") as unfinished:
                nib.save(nib.Nifti1Image(volume, np.eye(4)), unfinished)
            split[part].append({"subject": case, "image": [f"{case}/{case}_image.nii.gz"]})
            rows.append((case, names[label]))
    with atomic_file(root / "classes.csv") as unfinished, unfinished.open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("subject", "class"), *rows])
    write_json(root / "datalist.json", {"modalities": ["image"], **split})
