"""Thick slices are means, interpolated; thin ones come back in the same place, in the same intensities."""

from __future__ import annotations

import logging

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_idm.data import BrainToGridd, RequireThickSlicesd, ThickSlicesd, ToImageRanged, ToThinSlicesd

AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}


def volume(size=(6, 8, 12), spacing=(2.0, 2.0, 2.0), seed=0):
    voxels = torch.rand(1, *size, generator=torch.Generator().manual_seed(seed))
    return MetaTensor(voxels, affine=torch.diag(torch.tensor([*spacing, 1.0])))


@pytest.mark.parametrize("slices", AXIS)
def test_at_the_centre_of_a_slice_stands_the_mean_of_what_it_covers(slices):
    thin = volume((12, 12, 12))
    thick = ThickSlicesd("image", slices, 6.0)({"image": thin})["image"]
    axis = 1 + AXIS[slices]
    means = thin.as_tensor().unflatten(axis, (4, 3)).mean(axis + 1)
    torch.testing.assert_close(
        thick.as_tensor().narrow(axis, 1, 11).index_select(axis, torch.tensor([0, 3, 6, 9])), means
    )
    between = thick.as_tensor().select(axis, 2), means.select(axis, 0) * 2 / 3 + means.select(axis, 1) / 3
    torch.testing.assert_close(*between)
    torch.testing.assert_close(thick.as_tensor().select(axis, 0), means.select(axis, 0))  # nothing before the first


@pytest.mark.parametrize("thickness", [2.5, 3.7, 6.0, 11.0, 50.0])
def test_a_constant_stays_and_other_axes_are_left_alone(thickness):
    thin = volume((6, 8, 13))
    for phase in range(5):
        thicken = ThickSlicesd("image", "axial", thickness, random=True).set_random_state(phase)
        constant = thicken({"image": thin * 0 + 0.3})["image"]
        torch.testing.assert_close(constant.as_tensor(), torch.full((1, 6, 8, 13), 0.3))
        thick = thicken({"image": thin})["image"]
        one = thicken.set_random_state(phase)({"image": thin})["image"]
        alone = thicken.set_random_state(phase)({"image": thin[:, 2:3, 4:5]})["image"]
        torch.testing.assert_close(one[:, 2:3, 4:5].as_tensor(), alone.as_tensor())
        assert thick.as_tensor().std() < thin.as_tensor().std()


def test_where_slices_begin_is_drawn_anew_in_training_alone():
    item = {"image": volume()}
    random, fixed = ThickSlicesd("image", random=True).set_random_state(0), ThickSlicesd("image")
    assert not torch.equal(random(item)["image"], random(item)["image"])
    assert torch.equal(fixed(item)["image"], fixed(item)["image"])
    assert torch.equal(fixed(item)["target"], item["image"])


def test_slices_of_another_orientation_are_refused_and_of_another_thickness_named(caplog):
    check = RequireThickSlicesd("image", "axial", 6.0)
    turned = MetaTensor(torch.rand(1, 6, 4, 8), affine=torch.tensor(
        [[0.0, 0, -1, 9], [2, 0, 0, 0], [0, 6, 0, 0], [0, 0, 0, 1]])
    )  # fmt: skip
    check({"image": turned})  # the second axis of the file goes up
    with pytest.raises(ValueError, match=r"thickest in coronal slices; .* trained with --slices coronal"):
        check({"image": volume(spacing=(1, 5, 1))})
    with caplog.at_level(logging.WARNING):
        check({"image": volume(spacing=(1, 1, 6.5)), "subject": "a"})
        assert not caplog.records
        check({"image": volume(spacing=(1, 1, 9)), "subject": "a"})
    assert "a has slices of 9 mm" in caplog.text


@pytest.mark.parametrize("air", [0.0, -7.0])
@pytest.mark.parametrize("turned", [False, True])
def test_thin_slices_lie_where_the_thick_ones_do_and_have_their_intensities(air, turned):
    """A linear ramp is the same in thick and thin slices, so that interpolation alone must give it back."""
    size, spacing = (20, 24, 8), (1.0, 1.0, 3.0)
    x, y, z = torch.meshgrid(*(torch.arange(n) * mm for n, mm in zip(size, spacing, strict=True)), indexing="ij")
    ramp = 50 + 2 * x + 3 * y + 4 * z
    inside = torch.zeros(size, dtype=torch.bool)
    inside[2:-2, 2:-2, 1:-1] = True
    affine = torch.diag(torch.tensor([*spacing, 1.0]))
    affine[:3, 3] = torch.tensor([5.0, -3.0, 11.0])
    voxels = torch.where(inside, ramp, air)[None]
    if turned:  # left and right exchanged, the slices first
        voxels = voxels.flip(1).permute(0, 3, 1, 2)
        affine = affine @ torch.tensor([[0.0, -1, 0, 19], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    image, mask = MetaTensor(voxels, affine=affine), MetaTensor((voxels != air).float(), affine=affine)
    to_grid = Compose([BrainToGridd("image", (32, 32, 32), window_percentiles=(0, 100))])
    item = {**to_grid({"image": image, "mask": mask}), "native": mask}
    item["pred"] = item["image"].as_tensor()
    item = ToThinSlicesd("pred")(ToImageRanged("pred", (-1.0, 1.0))(item))
    thin = item["pred"]
    axis = 1 if turned else 3
    assert thin.shape[axis] == 24
    place = torch.tensor([9, 10, 12] if not turned else [12, 9, 10])  # deep inside, in thin voxels
    world = thin.affine.double() @ torch.tensor([*place.tolist(), 1.0], dtype=torch.float64)
    position = world[:3] - torch.tensor([5.0, -3.0, 11.0], dtype=torch.float64)
    expected = 50 + float((position * torch.tensor([2.0, 3.0, 4.0])).sum())
    assert float(thin[(0, *place.tolist())]) == pytest.approx(expected, abs=1.5)
    assert float(thin[0, 0, 0, 0]) == pytest.approx(air, abs=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThickSlicesd("image", "oblique"), "choose from sagittal, coronal, axial"),
        (lambda: ThickSlicesd("image", thickness_mm=0), "a thickness above 0"),
        (lambda: ThickSlicesd("image", thickness_mm=2.0)({"image": volume()}), "slices must be thicker than voxels"),
        (lambda: ThickSlicesd("image")({"image": torch.rand(1, 4, 4, 4)}), "does not know the size of its voxels"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
