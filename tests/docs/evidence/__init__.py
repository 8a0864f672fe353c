"""Where each figure on the pages comes from.

``TABLES`` are built from the result files and have to be on their page as they are here, cell by cell. ``ROWS`` are
rows of other tables, found by a word in them. ``TEXT`` lists every other figure: an expression over the result files,
or, where no file has it, the reason why. A figure is a number with decimals, an exponent or a unit (``dB``, ``GB``,
``MB``, ``%``, ``M``); ``TEXT`` may list plain integers too, which then have to be on the page.

When a result file changes, the tests show what the pages have to say; when a sentence goes, its line here goes with it.
"""

from __future__ import annotations

from tests.docs.evidence import benchmarks, bundle, evaluation, knobs, notes, quality, readme, reliability, tasks
from tests.docs.evidence.kinds import AtMost, Builders, Evidence
from tests.docs.evidence.results import READ

__all__ = ["READ", "ROWS", "TABLES", "TEXT", "AtMost", "Evidence"]

QUALITY = "bundle/docs/QUALITY.md"
BENCHMARKS = "bundle/docs/BENCHMARKS.md"
RELIABILITY = "bundle/docs/RELIABILITY.md"
EVALUATION = "bundle/docs/EVALUATION.md"
KNOBS = "bundle/docs/KNOBS.md"
TASKS = "bundle/docs/TASKS.md"
BUNDLE = "bundle/docs/README.md"
NOTES = "monai_idm/reversible/NOTES.md"

TABLES: dict[tuple[str, str], Builders] = {
    **{(QUALITY, heading): builders for heading, builders in quality.TABLES.items()},
    **{(TASKS, heading): builders for heading, builders in tasks.TABLES.items()},
    **{(BENCHMARKS, heading): builders for heading, builders in benchmarks.TABLES.items()},
}

TEXT: dict[str, list[Evidence]] = {
    QUALITY: quality.TEXT,
    BENCHMARKS: benchmarks.TEXT,
    RELIABILITY: reliability.TEXT,
    EVALUATION: evaluation.TEXT,
    "README.md": readme.TEXT,
    TASKS: tasks.TEXT,
    BUNDLE: bundle.TEXT,
    KNOBS: knobs.TEXT,
    NOTES: notes.TEXT,
}

# Rows of tables that are not in TABLES, by a word in them: all their figures, in order.
ROWS: dict[str, dict[str, list[Evidence]]] = {
    "README.md": readme.ROWS,
    EVALUATION: evaluation.ROWS,
    BUNDLE: bundle.ROWS,
}
