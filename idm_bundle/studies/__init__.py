"""Short trainings that answer one question each: ``python -m idm_bundle.studies``."""
