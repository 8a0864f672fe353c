"""Train one network in several processes, each with the whole network or with a shard of its weights."""

from monai_idm.distributed.gradient_average import GradientAverage
from monai_idm.distributed.processes import (
    AverageLoss,
    all_gather_objects,
    finalize_processes,
    initialize_processes,
    replicated,
    require_equal_settings,
)
from monai_idm.distributed.sharding import distribute_like, from_local, full_states, full_tensor, sharded, to_local
from monai_idm.renamed import renamed

__all__ = [
    "AverageLoss",
    "GradientAverage",
    "all_gather_objects",
    "distribute_like",
    "finalize_processes",
    "from_local",
    "full_states",
    "full_tensor",
    "initialize_processes",
    "replicated",
    "require_equal_settings",
    "sharded",
    "to_local",
]

__getattr__ = renamed(
    __name__,
    {
        "agree": "require_equal_settings",
        "as_part": "from_local",
        "from_all": "all_gather_objects",
        "here": "to_local",
        "join": "initialize_processes",
        "part": "distribute_like",
        "whole": "full_tensor",
        "whole_states": "full_states",
    },
)
