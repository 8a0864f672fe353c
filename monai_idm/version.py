"""The version, in one place."""

from pathlib import Path

__version__ = "0.4.0"


def require_version(version: str) -> None:
    """Refuse another version of this package than a packaged bundle contains.

    Args:
        version: Version of the code in the bundle.
    Raises:
        ImportError: If the package that was imported has another version.
    """
    if version != __version__:
        raise ImportError(
            f"the bundle contains monai_idm {version}, but {__version__} was imported from {Path(__file__).parent}; "
            f"run it in a fresh Python from its own folder, or take the other one off PYTHONPATH"
        )
