"""The bundle's configs with a few values changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_idm import find_bundle_root

__all__ = ["configured"]


def configured(changes: Mapping[str, Any], *overlays: str) -> ConfigParser:
    """train.yaml, overlaid.

    Args:
        changes: Of its values; they are copied, because a parser writes ``network_def#skips`` into the dict that it was
            given as ``network_def``, where the next training would find it.
        overlays: Names of further configs, without suffix.
    """
    config = ConfigParser()
    configs = Path(find_bundle_root()) / "configs"
    config.read_config([configs / f"{name}.yaml" for name in ("train", *overlays)])
    config.update(copy.deepcopy(dict(changes)))
    return config
