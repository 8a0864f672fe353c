"""``python -m idm_bundle report``: one HTML page about a run, which loads nothing from elsewhere."""

from idm_bundle.report.page import report

__all__ = ["report"]
