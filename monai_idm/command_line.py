"""Whether this process is ``python -m monai.bundle``."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["is_monai_bundle"]


def is_monai_bundle() -> bool:
    """Whether the program is MONAI's command line, and not a program that uses a bundle."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")
