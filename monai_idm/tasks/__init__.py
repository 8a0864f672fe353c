"""Tasks of a diffusion model, from generation to inpainting, and the training and validation steps."""

from monai_idm.renamed import renamed
from monai_idm.tasks.drawing import DrawingInferer, DrawingIteration
from monai_idm.tasks.generation import GenerateVolumes, Generation, SamplingPrepareBatch
from monai_idm.tasks.inpainting import Inpainting
from monai_idm.tasks.reconstruction import ReconstructionIteration
from monai_idm.tasks.segmentation import DiffusionSegmentationInferer, Segmentation
from monai_idm.tasks.semantic import SemanticSynthesis
from monai_idm.tasks.super_resolution import SuperResolution
from monai_idm.tasks.synthesis import ChooseKnownd, DiffusionSynthesisInferer, Synthesis
from monai_idm.tasks.task import Task, predicted_channels, task_named
from monai_idm.tasks.training_step import TrainingStep

__all__ = [
    "ChooseKnownd",
    "DiffusionSegmentationInferer",
    "DiffusionSynthesisInferer",
    "DrawingInferer",
    "DrawingIteration",
    "GenerateVolumes",
    "Generation",
    "Inpainting",
    "ReconstructionIteration",
    "SamplingPrepareBatch",
    "Segmentation",
    "SemanticSynthesis",
    "SuperResolution",
    "Synthesis",
    "Task",
    "TrainingStep",
    "predicted_channels",
    "task_named",
]

__getattr__ = renamed(__name__, {"predicted": "predicted_channels"})
