"""Short training runs that answer one question each: ``python -m idm_bundle.studies``."""
