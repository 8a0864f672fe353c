"""Collect the items of each case from an evaluator's output and batch."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine

__all__ = ["evaluated_cases"]


def evaluated_cases(engine: Engine) -> list[dict[str, Any]]:
    """The cases of the iteration just completed, one dict each.

    Items of ``engine.state.output`` come first; ``engine.state.batch`` fills in what the output lacks (the subject, the
    mask). What is still missing gets a default: ``subject`` a name made of process, iteration and place in the batch;
    ``mask``, if there is an ``image``, the voxels where any of its channels is not 0.

    Args:
        engine: A MONAI evaluator that decollates its batches, at ``ITERATION_COMPLETED``.
    Returns:
        The items of batch and output for each case, such as ``image`` ``(C, D, H, W)`` and ``subject``.
    Raises:
        TypeError: If the output is not a list of dicts.
    """
    output, batch = engine.state.output, engine.state.batch
    if not isinstance(output, list) or not all(isinstance(item, dict) for item in output):
        raise TypeError(
            f"the evaluator's output is a {type(output).__name__}, not a list of dicts, one per case; "
            "construct the evaluator with decollate=True"
        )
    paired = isinstance(batch, list) and len(batch) == len(output)
    cases = []
    for place, item in enumerate(output):
        loaded = batch[place] if paired and isinstance(batch[place], dict) else {}
        case = {**loaded, **item}
        # the name includes the rank: iterations have the same numbers in every process
        case.setdefault("subject", f"case_{idist.get_rank()}_{engine.state.iteration}_{place}")
        if "mask" not in case and "image" in case:
            case["mask"] = (case["image"] != 0).any(0, keepdim=True)
        cases.append(case)
    return cases
