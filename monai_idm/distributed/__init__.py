"""Several processes that train as one: each with the whole network, or with a part of its weights."""

from monai_idm.distributed.gradient_average import GradientAverage
from monai_idm.distributed.processes import AverageLoss, agree, from_all, join, replicated
from monai_idm.distributed.sharding import as_part, here, part, sharded, whole, whole_states

__all__ = [
    "AverageLoss",
    "GradientAverage",
    "agree",
    "as_part",
    "from_all",
    "here",
    "join",
    "part",
    "replicated",
    "sharded",
    "whole",
    "whole_states",
]
