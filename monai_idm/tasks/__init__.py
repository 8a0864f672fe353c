"""What networks are trained to do: what each task conditions on, predicts, draws and writes."""

from monai_idm.tasks.drawing import DrawingInferer, DrawingIteration
from monai_idm.tasks.generation import GenerateVolumes, Generation, SamplingPrepareBatch
from monai_idm.tasks.prepare_batch import DenoisingPrepareBatch
from monai_idm.tasks.reconstruction import ReconstructionIteration
from monai_idm.tasks.segmentation import DiffusionSegmentationInferer, Segmentation
from monai_idm.tasks.synthesis import ChooseKnownd, DiffusionSynthesisInferer, Synthesis
from monai_idm.tasks.task import Task, predicted, task_named

__all__ = [
    "ChooseKnownd",
    "DenoisingPrepareBatch",
    "DiffusionSegmentationInferer",
    "DiffusionSynthesisInferer",
    "DrawingInferer",
    "DrawingIteration",
    "GenerateVolumes",
    "Generation",
    "ReconstructionIteration",
    "SamplingPrepareBatch",
    "Segmentation",
    "Synthesis",
    "Task",
    "predicted",
    "task_named",
]
