"""A patch is cropped from all volumes, with the coordinates of its voxels in the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_idm.data import AddCoordinatesd, RandCentrePatchd
from monai_idm.data.patches import coordinates

SIZE = (9, 12, 7)


def item():
    voxels = torch.arange(9 * 12 * 7, dtype=torch.float32).reshape(1, *SIZE)
    return {"image": MetaTensor(voxels), "label": voxels.clone(), "subject": "x"}


def test_coordinates_run_from_minus_one_to_one():
    c = coordinates(SIZE)
    assert c.shape == (3, *SIZE)
    for axis, n in enumerate(SIZE):
        expected = torch.linspace(-1, 1, n)
        torch.testing.assert_close(c[axis].movedim(axis, 0)[:, 2, 3], expected)
        torch.testing.assert_close(c[axis].movedim(axis, 0).std((1, 2)), torch.zeros(n))
    assert coordinates((4, 1))[1].unique() == 0


@pytest.mark.parametrize("patch", [4, (9, 12, 7), (1, 12, 3)])
def test_a_patch_has_the_coordinates_of_its_voxels(patch):
    cut = Compose([AddCoordinatesd(), RandCentrePatchd(["image", "label", "coordinates"], patch)])
    cut.set_random_state(3)
    whole = coordinates(SIZE)
    corners = set()
    for _ in range(20):
        d = cut(item())
        assert torch.equal(d["image"].as_tensor(), d["label"])
        positions = d["label"][0].long()
        for axis in range(3):
            torch.testing.assert_close(d["coordinates"][axis], whole[axis].flatten()[positions], rtol=0, atol=0)
        corners.add(int(positions.flatten()[0]))
        assert d["label"].shape[1:] == (patch if isinstance(patch, tuple) else (patch,) * 3)
    assert (len(corners) > 1) == (patch != SIZE)


def test_corners_are_drawn_towards_the_centre_and_reach_both_ends():
    cut = RandCentrePatchd("image", (5, 12, 7))
    cut.set_random_state(0)
    corners = np.array([cut._corner[0] for _ in range(2000) if cut.randomize([5, 1, 1]) is None])
    counts = np.bincount(corners, minlength=5) / len(corners)
    # fifths of a triangular distribution
    np.testing.assert_allclose(counts, [0.08, 0.24, 0.36, 0.24, 0.08], atol=0.03)


def test_the_same_seed_draws_the_same_patch():
    a, b = (RandCentrePatchd("image", 3).set_random_state(5) for _ in range(2))
    assert torch.equal(a(item())["image"], b(item())["image"])


@pytest.mark.parametrize("other", [(9, 12, 7), (9, 12, 8)])
def test_what_does_not_fit_is_refused(other):
    d = {**item(), "label": torch.zeros(1, *other)}
    with pytest.raises(ValueError, match="must all have the same size, at least that of the patch"):
        RandCentrePatchd(["image", "label"], 8 if other == SIZE else 4)(d)
