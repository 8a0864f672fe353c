"""The bundle's configs with a few values changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser

from idm_bundle.installed import bundle_here_or_installed

__all__ = ["SMALLEST", "configured"]

# values of train.yaml that make network and data so small that most of the time passes between steps
SMALLEST: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "preset": "light",
    "batch_size": 2,
    "num_workers": 0,
    "demo#num_subjects": 5,
    "demo#phantom_size": [32, 32, 24],
    "num_inference_steps": 2,
    "ema_interval": 1,
    "network_def#channels": [16, 32],
    "network_def#num_res_blocks": 1,
    "network_def#attention_levels": [True, False],
    "network_def#num_head_channels": 4,
    "network_def#norm_num_groups": 4,
    "network_def#embedding_channels": 16,
}
# instead of what is fastest on this machine, so that a study computes the same on every machine
_LITERAL = {"activations": "rebuilt", "precision": "float32"}


def configured(changes: Mapping[str, Any], *overlays: str, of: str = "train") -> ConfigParser:
    """A config with overlays and changed values; activations are rebuilt, in float32, unless these say otherwise.

    Args:
        changes: Values by their ids. They are copied, because a parser writes ``network_def#skips`` into the dictionary
            that it was given as ``network_def``, and the next training run would use it.
        overlays: Names of further configs, without suffix.
        of: Name of the config.
    """
    config = ConfigParser()
    configs = bundle_here_or_installed() / "configs"
    config.read_config([configs / f"{name}.yaml" for name in (of, *overlays)])
    for knob, value in _LITERAL.items():
        if config.get(knob) == "auto":
            config[knob] = value
    config.update(copy.deepcopy(dict(changes)))
    return config
