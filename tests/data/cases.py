"""Small cases on disk, and the chain from files to the network's grid and back, as in a config."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from monai.bundle import ConfigParser
from monai.transforms import Compose

SHAPE = (27, 33, 22)  # odd and even, all different

CHAIN = """
imports: ["$import monai_idm"]
modalities: [t1, t2]
spatial_size: [24, 24, 24]
network_range: [-1.0, 1.0]
zoom: true
output_dir: output
preprocessing:
  _target_: Compose
  transforms:
  - _target_: LoadVolumesd
    keys: image
    modalities: "@modalities"
  - _target_: BrainToGridd
    keys: image
    spatial_size: "@spatial_size"
    network_range: "@network_range"
    zoom: "@zoom"
postprocessing:
  _target_: Compose
  transforms:
  - _target_: ToNatived
    keys: pred
    transform: "@preprocessing"
    orig_keys: image
  - _target_: SaveVolumesd
    keys: pred
    output_dir: "@output_dir"
    modalities: "@modalities"
"""


def chain(**knobs) -> tuple[Compose, Compose]:
    """The config's preprocessing and postprocessing, with some of its knobs changed."""
    parser = ConfigParser(yaml.safe_load(CHAIN) | knobs)
    return parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")


def affine(spacing=(1.0, 1.0, 1.0), axes="RAS", oblique_deg=0.0) -> np.ndarray:
    """An affine with voxel axes that point to ``axes``, rotated about two of the body's axes, away from the origin."""
    columns = {
        "R": (1, 0, 0),
        "A": (0, 1, 0),
        "S": (0, 0, 1),
        "L": (-1, 0, 0),
        "P": (0, -1, 0),
        "I": (0, 0, -1),
    }
    c, s = np.cos(np.deg2rad(oblique_deg)), np.sin(np.deg2rad(oblique_deg))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.array([columns[axis] for axis in axes]).T @ np.diag(spacing)
    matrix[:3, 3] = [-31.7, 12.3, 44.1]
    return matrix


def smooth_brain(shape=SHAPE, seed=0) -> np.ndarray:
    """Slow waves in (0, 1) inside an off-centre ellipsoid that fades at its edge; 0 outside."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    radius = np.sqrt((((grid - np.reshape([0.1, -0.05, 0.08], (3, 1, 1, 1))) / 0.8) ** 2).sum(0))
    waves = sum(np.cos(2.5 * np.tensordot(rng.normal(size=3), grid, 1) + rng.uniform(0, 6)) for _ in range(4))
    inside = (waves + 5) / 10 * np.clip(3 * (1 - radius), 0, 1)
    return np.where(radius < 0.97, inside, 0.0)


def write_volume(file: Path, values: np.ndarray, matrix=None, dtype=np.float32, slope=None, inter=0.0) -> str:
    """Write the values unchanged, with a header that scales them by ``slope`` and ``inter``."""
    image = nib.Nifti1Image(np.asarray(values).astype(dtype), affine() if matrix is None else matrix)
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, file)
    return str(file)


def write_case(folder: Path, subject="case", matrix=None, scale=(500.0, 2000.0), dtype=np.int16, seed=0) -> dict:
    """A case of two modalities with negative voxels inside the brain; return its datalist item."""
    volumes = []
    for channel, modality in enumerate(("t1", "t2")):
        values = smooth_brain(seed=10 * seed + channel) * scale[channel]
        brain = np.argwhere(values != 0)
        values[tuple(brain[:: len(brain) // 7].T)] = -0.02 * scale[channel]
        if np.issubdtype(dtype, np.integer):
            values = np.round(values)
        file = folder / subject / f"{subject}_{modality}.nii.gz"
        volumes.append(write_volume(file, values, matrix, dtype))
    return {"subject": subject, "image": volumes}
