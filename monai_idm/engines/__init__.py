"""What MONAI's engines do in one step, where their own step does not fit."""

from monai_idm.engines.drawing import DrawingIteration
from monai_idm.engines.generation import GenerateVolumes
from monai_idm.engines.mask_batch import MaskPrepareBatch
from monai_idm.engines.prepare_batch import DenoisingPrepareBatch
from monai_idm.engines.reconstruction import ReconstructionIteration
from monai_idm.engines.sampling_batch import SamplingPrepareBatch
from monai_idm.engines.synthesis_batch import SynthesisPrepareBatch

__all__ = [
    "DenoisingPrepareBatch",
    "DrawingIteration",
    "GenerateVolumes",
    "MaskPrepareBatch",
    "ReconstructionIteration",
    "SamplingPrepareBatch",
    "SynthesisPrepareBatch",
]
