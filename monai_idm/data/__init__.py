"""Datasets and transforms: BraTS folders to datalists, volumes to the network's grid and back to files."""

from monai_idm.data.air import AirToZerod
from monai_idm.data.asked import asked_conditions
from monai_idm.data.auto_cache import AutoCacheDataset
from monai_idm.data.batches import CaseDraw, SeededBatches, SeededDataset
from monai_idm.data.brain import BrainToGridd
from monai_idm.data.brats import brats_datalist, problem_cases
from monai_idm.data.cache import CheckedPersistentDataset
from monai_idm.data.channels import ChannelsToGreyd, SelectChannelsd
from monai_idm.data.classes import read_class_labels, sampled_classes
from monai_idm.data.conditions import (
    EncodeConditionsd,
    condition_names,
    describe_conditions,
    fit_conditions,
    read_conditions,
)
from monai_idm.data.datalist import prepare_datalist, split_by_subject
from monai_idm.data.evaluation import evaluation_datalist, split_of
from monai_idm.data.grid import FitToGridd, grid_spacing_mm
from monai_idm.data.harmonic import harmonic_fill
from monai_idm.data.holes import FillHoled, HideHoled, LabelToHoled, RandHoled
from monai_idm.data.inpainted import SaveInpaintedd
from monai_idm.data.intensity import ScaleToNetworkRanged, ToImageRanged, WindowIntensityd
from monai_idm.data.label import LoadLabeld
from monai_idm.data.label_table import LabelToChannelsd, labelled_cases, read_label_table
from monai_idm.data.loading import LoadVolumesd
from monai_idm.data.medmnist import LoadCubed, medmnist_classes, medmnist_grid, unpack_medmnist
from monai_idm.data.native import ToNatived
from monai_idm.data.patches import AddCoordinatesd, RandCentrePatchd
from monai_idm.data.patients import patient, read_patients, with_patients
from monai_idm.data.phantom import Phantom, generate_phantom, write_phantoms
from monai_idm.data.regions import LABEL_MAPS, LabelToRegionsd, RegionsToLabeld
from monai_idm.data.sampling import DrawNoised, PlaceOnTrainingGridd, SaveSettingsd, sample_list
from monai_idm.data.saving import SaveVolumesd
from monai_idm.data.source import data_source, dataset_or_phantoms, describe_data
from monai_idm.data.thick_slices import RequireThickSlicesd, ThickSlicesd, ToThinSlicesd
from monai_idm.renamed import renamed

__all__ = [
    "LABEL_MAPS",
    "AddCoordinatesd",
    "AirToZerod",
    "AutoCacheDataset",
    "BrainToGridd",
    "CaseDraw",
    "ChannelsToGreyd",
    "CheckedPersistentDataset",
    "DrawNoised",
    "EncodeConditionsd",
    "FillHoled",
    "FitToGridd",
    "HideHoled",
    "LabelToChannelsd",
    "LabelToHoled",
    "LabelToRegionsd",
    "LoadCubed",
    "LoadLabeld",
    "LoadVolumesd",
    "Phantom",
    "PlaceOnTrainingGridd",
    "RandCentrePatchd",
    "RandHoled",
    "RegionsToLabeld",
    "RequireThickSlicesd",
    "SaveInpaintedd",
    "SaveSettingsd",
    "SaveVolumesd",
    "ScaleToNetworkRanged",
    "SeededBatches",
    "SeededDataset",
    "SelectChannelsd",
    "ThickSlicesd",
    "ToImageRanged",
    "ToNatived",
    "ToThinSlicesd",
    "WindowIntensityd",
    "asked_conditions",
    "brats_datalist",
    "condition_names",
    "data_source",
    "dataset_or_phantoms",
    "describe_conditions",
    "describe_data",
    "evaluation_datalist",
    "fit_conditions",
    "generate_phantom",
    "grid_spacing_mm",
    "harmonic_fill",
    "labelled_cases",
    "medmnist_classes",
    "medmnist_grid",
    "patient",
    "prepare_datalist",
    "problem_cases",
    "read_class_labels",
    "read_conditions",
    "read_label_table",
    "read_patients",
    "sample_list",
    "sampled_classes",
    "split_by_subject",
    "split_of",
    "unpack_medmnist",
    "with_patients",
    "write_phantoms",
]

__getattr__ = renamed(__name__, {"Draw": "CaseDraw", "described": "describe_data"})
