"""The result files beside the pages, and what is in them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from idm_bundle.benchmark import Row, read_rows
from idm_bundle.benchmark.bars import bars
from tests.docs.pages import DOCS

READ: set[str] = set()  # result files that were read


@cache
def content(file: str) -> Any:
    """A JSON file beside the pages."""
    READ.add(file)
    return json.loads((DOCS / file).read_text())


def study(name: str) -> dict[str, Any]:
    """The results of a study, by variant."""
    return content(f"study_{name}.json")["results"]


GPU = content("gpu_h200.json")


@cache
def rows(name: str) -> list[Row]:
    """The rows of a benchmark."""
    READ.add(f"benchmark_{name}.jsonl")
    return read_rows(DOCS / f"benchmark_{name}.jsonl")


def row(name: str, case: str) -> Any:
    """The row of one case."""
    (found,) = (row for row in rows(name) if row.case == case)
    return found


def gb(name: str, case: str) -> float:
    """Peak memory of one case in GB."""
    return row(name, case).peak_bytes / 1e9


def bar(suite: str, what: str) -> Any:
    """What the benchmark prints below its table: a limit and a value, here from the estimated rows."""
    (found,) = (bar for bar in bars(suite, rows(f"{suite}_estimate")) if bar.what == what)
    return found


def gpu_step(case: str) -> dict[str, Any]:
    """A training step on a GPU at 64^3, batch 4."""
    (found,) = (found for found in GPU["steps"]["results"] if found["case"] == case)
    return found


def gpu_ratio(case: str, other: str, what: str = "step_s") -> float:
    return gpu_step(case)[what] / gpu_step(other)[what]
