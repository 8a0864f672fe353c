"""What an evaluator's iteration knows of each case, wherever it stands."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine

__all__ = ["evaluated_cases"]


def evaluated_cases(engine: Engine) -> list[dict[str, Any]]:
    """The cases of the iteration just completed, one dict each.

    ``engine.state.output`` goes before ``engine.state.batch``, whose items fill in what the output lacks (the
    subject, the mask). What is still missing is made up for: ``subject`` by a name from process, iteration
    and place; ``mask``, where there is an ``image``, by where any channel of the image is not 0.

    Args:
        engine: A MONAI evaluator that decollates its batches, at ``ITERATION_COMPLETED``.
    Returns:
        Per case the items of batch and output, as ``image`` ``(C, D, H, W)`` and ``subject``.
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
        # the rank belongs to the name: processes count their iterations alike
        case.setdefault("subject", f"case_{idist.get_rank()}_{engine.state.iteration}_{place}")
        if "mask" not in case and "image" in case:
            case["mask"] = (case["image"] != 0).any(0, keepdim=True)
        cases.append(case)
    return cases
