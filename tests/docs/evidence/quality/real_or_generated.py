"""QUALITY.md: whether real and generated brains can be told apart."""

from __future__ import annotations

from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.results import study

(FOUND,) = study("real_or_generated").values()


def told_apart() -> Table:
    table = [["a brain is described by", "AUC", "95 % interval"]]
    for name, found in FOUND.items():
        if isinstance(found, dict):
            low, high = found["ci95"]
            table.append([name, f"{found['auc']:.3f}", f"{low:.3f} to {high:.3f}"])
    return table


TEXT: list[Evidence] = [("0.1", "lambda_r of the study"), ("76344e3", "a commit")]
