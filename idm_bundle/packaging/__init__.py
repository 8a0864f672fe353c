"""Bundles for the Model Zoo, MONAI Label and other machines, and the checks that they have to pass."""

from idm_bundle.packaging.bundle import package
from idm_bundle.packaging.isolated import verify_bundle

__all__ = ["package", "verify_bundle"]
