"""The version, in one place."""

from pathlib import Path

__version__ = "0.4.0"


def require_version(version: str) -> None:
    """Raise an ImportError unless this is the given version: a packaged bundle requires the one it contains."""
    if version != __version__:
        raise ImportError(
            f"the bundle contains monai_idm {version}, but {__version__} was imported from {Path(__file__).parent}; "
            f"run it in a fresh Python from its own folder, or take the other one off PYTHONPATH"
        )
