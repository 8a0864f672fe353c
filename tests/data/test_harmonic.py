"""The smooth fill of a hole: known voxels stay, and harmonic functions come back."""

from __future__ import annotations

import pytest
import torch

from monai_idm.data import harmonic_fill

SIZE = (9, 8, 7)


def hole(*slices):
    mask = torch.zeros(1, *SIZE)
    mask[(0, *slices)] = 1
    return mask


def coordinates():
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in SIZE), indexing="ij")


HARMONIC = [lambda x, y, z: 2 * x - y + 3, lambda x, y, z: x * y + y * z, lambda x, y, z: x**2 - z**2]


@pytest.mark.parametrize("function", HARMONIC)
def test_a_discrete_harmonic_function_is_restored(function):
    volume = function(*coordinates())[None]
    mask = hole(slice(2, 6), slice(1, 6), slice(2, 5))
    mask[0, 6, 3, 3] = 1  # not convex
    filled = harmonic_fill(torch.where(mask > 0, torch.nan, volume), mask)
    torch.testing.assert_close(filled, volume, atol=1e-3, rtol=0)
    assert torch.equal(filled[mask == 0], volume[mask == 0])


def test_each_filled_voxel_is_the_mean_of_its_neighbours_in_the_volume():
    volume = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    mask = hole(slice(0, 3), slice(6, 8), slice(3, 5))  # at the volume's border
    filled = harmonic_fill(volume, mask)
    for place in mask[0].nonzero().tolist():
        near = [
            filled[(slice(None), *(p + s * (a == axis) for a, p in enumerate(place)))]
            for axis in range(3)
            for s in (-1, 1)
            if 0 <= place[axis] + s < SIZE[axis]
        ]
        torch.testing.assert_close(filled[(slice(None), *place)], torch.stack(near).mean(0), atol=1e-4, rtol=0)


def test_a_hole_of_everything_is_refused():
    with pytest.raises(ValueError, match="covers the whole volume"):
        harmonic_fill(torch.rand(1, *SIZE), torch.ones(1, *SIZE))
