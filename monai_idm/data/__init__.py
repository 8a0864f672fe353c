"""BraTS folders to a datalist, volumes to the network's grid and back to files."""

from monai_idm.data.brats import brats_datalist
from monai_idm.data.datalist import prepare_datalist, split_by_subject
from monai_idm.data.grid import FitToGridd, grid_spacing_mm
from monai_idm.data.intensity import ScaleToNetworkRanged, WindowIntensityd
from monai_idm.data.loading import LoadVolumesd
from monai_idm.data.patches import AddCoordinatesd, RandCentrePatchd
from monai_idm.data.phantom import Phantom, generate_phantom, write_phantoms
from monai_idm.data.regions import LabelToRegionsd, RegionsToLabeld
from monai_idm.data.sampling import DrawNoised, PlaceOnTrainingGridd, sample_list
from monai_idm.data.saving import SaveVolumesd
from monai_idm.data.source import dataset_or_phantoms

__all__ = [
    "AddCoordinatesd",
    "DrawNoised",
    "FitToGridd",
    "LabelToRegionsd",
    "LoadVolumesd",
    "Phantom",
    "PlaceOnTrainingGridd",
    "RandCentrePatchd",
    "RegionsToLabeld",
    "SaveVolumesd",
    "ScaleToNetworkRanged",
    "WindowIntensityd",
    "brats_datalist",
    "dataset_or_phantoms",
    "generate_phantom",
    "grid_spacing_mm",
    "prepare_datalist",
    "sample_list",
    "split_by_subject",
    "write_phantoms",
]
