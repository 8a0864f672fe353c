"""A sum of outer products in parts equals the sum in one piece."""

from __future__ import annotations

import pytest
import torch

from monai_idm.reversible import outer_product as module
from monai_idm.reversible.outer_product import outer_product


@pytest.mark.parametrize("elements", [1, 2**24], ids=["a part at a time", "all parts at once"])
@pytest.mark.parametrize("voxels", [3, 8, 9, 31, 64])
@pytest.mark.parametrize("leading", [(2,), (2, 3)], ids=["one matrix", "a matrix per channel"])
def test_it_is_the_sum_over_samples_and_voxels(leading, voxels, elements, monkeypatch):
    monkeypatch.setattr(module, "_PART", 8)
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    left, right = (
        [torch.randn(*leading, c, voxels, generator=generator, dtype=torch.float64) for c in channels]
        for channels in ((4, 4), (2, 3, 1))
    )
    expected = torch.einsum("b...iv,b...jv->...ij", torch.cat(left, -2), torch.cat(right, -2))
    torch.testing.assert_close(outer_product(left, right), expected)
