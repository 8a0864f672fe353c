"""The command line around the bundle: ``python -m idm_bundle --help``."""
