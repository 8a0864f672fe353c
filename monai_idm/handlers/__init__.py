"""Ignite handlers: they subscribe to an engine, call a meter or a metrics object, and write its results."""

from monai_idm.handlers.attach_all import AttachAll
from monai_idm.handlers.best_weights import BestWeights
from monai_idm.handlers.checked_checkpoint_loader import CheckedCheckpointLoader
from monai_idm.handlers.closing_montage import ClosingMontage
from monai_idm.handlers.data_wait import DataWaitHandler
from monai_idm.handlers.ema import HostEMA, UpdateEMA, UseEMA
from monai_idm.handlers.energy import EnergyHandler
from monai_idm.handlers.evaluation_report import EvaluationReport
from monai_idm.handlers.memory_advice import MemoryAdvice
from monai_idm.handlers.montage import MontageHandler
from monai_idm.handlers.peak_memory import PeakMemoryHandler
from monai_idm.handlers.progress import TrainingProgress
from monai_idm.handlers.reconstruction_error import ReconstructionErrorHandler
from monai_idm.handlers.record_handler import RecordHandler
from monai_idm.handlers.sample_watch import SampleWatch
from monai_idm.handlers.step_guard import StepGuard
from monai_idm.handlers.training_checkpoint import TrainingCheckpoint
from monai_idm.handlers.validate_last import ValidateLast

__all__ = [
    "AttachAll",
    "BestWeights",
    "CheckedCheckpointLoader",
    "ClosingMontage",
    "DataWaitHandler",
    "EnergyHandler",
    "EvaluationReport",
    "HostEMA",
    "MemoryAdvice",
    "MontageHandler",
    "PeakMemoryHandler",
    "ReconstructionErrorHandler",
    "RecordHandler",
    "SampleWatch",
    "StepGuard",
    "TrainingCheckpoint",
    "TrainingProgress",
    "UpdateEMA",
    "UseEMA",
    "ValidateLast",
]
