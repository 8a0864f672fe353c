"""Named sizes of the networks, kept in one place so that configs, tests and benchmarks mean the same network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PATCH_PRESETS", "PRESETS", "preset_of"]

PRESETS: dict[str, dict[str, Any]] = {
    # about 3M parameters: trains on a CPU
    "light": {
        "channels": (32, 64, 128, 256),
        "num_res_blocks": (1, 1, 2, 1),
        "attention_levels": (False, False, True, False),
        "num_head_channels": 32,
        "embedding_channels": 128,
    },
    # 24.3M: PatchDDM's size
    "base": {
        "channels": (32, 64, 128, 256, 512),
        "num_res_blocks": (2, 2, 3, 4, 2),
        "attention_levels": (False, False, True, True, False),
        "num_head_channels": 32,
        "embedding_channels": 320,
    },
    # 343.9M: as close to the paper's 343.6M as its section 4 allows
    "paper": {
        "channels": (64, 128, 256, 512, 1024, 2048),
        "num_res_blocks": (2, 2, 2, 2, 3, 2),
        "attention_levels": (False, False, False, True, True, False),
        "num_head_channels": 64,
        "embedding_channels": 768,
    },
}

# in: noisy mask, four MRI contrasts, three coordinates; out: the prediction for the mask
PATCH_PRESETS: dict[str, dict[str, Any]] = {
    # about as large as "light" above, and with as many levels
    "light": {
        "spatial_dims": 3,
        "in_channels": 8,
        "out_channels": 1,
        "channels": (15, 45, 60, 60),
        "norm_num_groups": 5,
    },
    # 24.3M, the defaults of the class
    "patchddm": {"spatial_dims": 3, "in_channels": 8, "out_channels": 1},
}


def preset_of(arguments: Mapping[str, Any]) -> str | None:
    """Name of the preset that matches a network's arguments, or None."""
    for name, preset in PRESETS.items():
        if all(arguments.get(k) == (list(v) if isinstance(v, tuple) else v) for k, v in preset.items()):
            return name
    return None
