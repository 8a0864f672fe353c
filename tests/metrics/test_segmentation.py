"""Dice and HD95 against values computed by hand, and the table of a split."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from monai_idm.metrics import SegmentationMetrics, best_threshold, otsu_threshold
from monai_idm.metrics.statistics import describe

SIZE = (10, 12, 8)


def box(start, end, size=SIZE):
    volume = torch.zeros(1, *size)
    volume[:, start[0] : end[0], start[1] : end[1], start[2] : end[2]] = 1
    return volume


REFERENCE = box((2, 2, 2), (6, 6, 6))


def rows(draws, reference=REFERENCE, regions=("whole",), **arguments):
    metrics = SegmentationMetrics(regions, ("t1", "flair"))
    metrics.update("case", torch.stack(draws), reference, **arguments)
    return metrics.rows()


def test_dice_is_twice_the_common_voxels_over_all():
    shifted = box((3, 2, 2), (7, 6, 6))  # 48 of 64 voxels in common
    (row,) = rows([shifted])
    assert row["dice"] == pytest.approx(2 * 48 / 128)
    assert row["reference_ml"] == pytest.approx(0.064)
    assert row["hd95_mm"] == pytest.approx(1.0)


def test_distances_are_in_mm_along_each_axis():
    affine = torch.diag(torch.tensor([3.0, 1.0, 2.0, 1.0]))
    reference = MetaTensor(REFERENCE, affine=affine)
    for shift, expected in (((1, 0, 0), 3.0), ((0, 1, 0), 1.0), ((0, 0, 1), 2.0)):
        moved = torch.roll(REFERENCE, shift, (1, 2, 3))
        (row,) = rows([moved], reference)
        assert row["hd95_mm"] == pytest.approx(expected)
        assert row["reference_ml"] == pytest.approx(0.064 * 6)


def test_far_voxels_count_by_their_percentile():
    stray = REFERENCE.clone()
    stray[0, 9, 11, 7] = 1
    (row,) = rows([stray])
    assert row["hd95_mm"] == 0  # one of 57 voxels of the surface
    assert row["dice"] < 1


def test_the_mean_of_three_draws_is_their_majority():
    draws = [box((2, 2, 2), (6, 6, 6)), box((2, 2, 2), (6, 6, 7)), box((2, 2, 3), (6, 6, 6))]
    found = rows(draws)
    assert [row["method"] for row in found] == ["draw"] * 3 + ["ensemble"]
    assert found[0]["dice"] == found[3]["dice"] == 1
    assert max(found[1]["dice"], found[2]["dice"]) < 1


def test_draws_of_probabilities_are_averaged_before_the_threshold():
    draws = [0.9 * REFERENCE, 0.4 * REFERENCE]
    found = rows(draws)
    assert [row["dice"] for row in found] == [1, 0, 1]


def test_otsu_takes_the_bright_voxels_of_flair_in_the_brain():
    brain = box((1, 1, 1), (9, 9, 7))
    image = torch.rand(2, *SIZE) * 0.1
    image[1] += REFERENCE[0] + 5 * (1 - brain[0])  # outside it is brighter still
    found = rows([REFERENCE], image=image, mask=brain)
    assert [row["method"] for row in found] == ["draw", "otsu", "best_threshold"]
    assert [row["dice"] for row in found] == [1, 1, 1]
    assert len(rows([REFERENCE], torch.zeros(1, *SIZE), image=image, mask=brain)) == 2  # there is no best threshold


def test_no_threshold_is_better_than_the_best():
    values, reference = torch.randn(500).round(decimals=1), torch.rand(500) > 0.6
    values = values + reference

    def dice(threshold):
        above = values > threshold
        return float(2 * (above & reference).sum() / (above.sum() + reference.sum()))

    best = dice(best_threshold(values, reference))
    assert best == max(dice(t) for t in [-100.0, *(values.unique() + 0.05).tolist()])
    assert best_threshold(torch.tensor([1.0, 2, 2]), torch.ones(3)) < 1  # everything
    assert best_threshold(torch.tensor([2.0, 1, 1, 0]), torch.tensor([1.0, 1, 0, 0])) == 0.5  # not between equal values
    with pytest.raises(ValueError, match="empty"):
        best_threshold(values, torch.zeros(500))


def test_otsu_parts_two_modes_where_the_variance_between_them_is_largest():
    values = torch.cat([torch.randn(3000) * 0.1, 1 + torch.randn(1000) * 0.1])
    threshold = otsu_threshold(values)

    def apart(t):
        low, high = values[values <= t], values[values > t]
        return float(len(low) * len(high) * (low.mean() - high.mean()) ** 2)

    best = max(apart(t) for t in torch.linspace(-0.3, 1.3, 400))
    assert apart(threshold) == pytest.approx(best, rel=1e-3)
    assert otsu_threshold(10 * values - 3) == pytest.approx(10 * threshold - 3, rel=1e-3)
    for nothing in (torch.zeros(0), torch.ones(5)):
        with pytest.raises(ValueError, match="two classes of voxels"):
            otsu_threshold(nothing)


def test_empty_masks_have_a_dice_and_no_distance():
    nothing = torch.zeros(1, *SIZE)
    (both,) = rows([nothing], nothing)
    (missed,) = rows([nothing])
    (invented,) = rows([REFERENCE], nothing)
    assert [row["dice"] for row in (both, missed, invented)] == [1, 0, 0]
    assert [row["hd95_mm"] for row in (both, missed, invented)] == [None] * 3


def make_split():
    metrics = SegmentationMetrics(("core", "whole"), ("flair",))
    for number in range(3):
        core, whole = box((3, 3, 3), (5, 5, 5)), REFERENCE
        reference = torch.cat([core, whole])
        wrong = torch.cat([core if number else 0 * core, whole.roll(number, 1)])
        image = torch.cat([whole + 0.1 * torch.rand(1, *SIZE), torch.rand(3, *SIZE)])
        metrics.update(f"case{number}", torch.stack([reference, wrong, wrong]), reference, image, torch.ones(1, *SIZE))
    return metrics


def test_statistics_are_over_cases_whose_draws_count_as_their_mean():
    metrics = make_split()
    core = metrics.summary()["regions"]["core"]
    assert core["draw"]["dice"]["mean"] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert core["draw"]["dice"]["n"] == 3
    assert core["draw"]["hd95_mm"] == describe([0, 0, 0])  # in the first case, of the draw that found it
    assert core["ensemble"]["hd95_mm"]["n"] == 2  # in the first case the majority missed it
    assert "otsu" not in core
    shifts = [1, 0.75, 0.5]
    assert metrics.summary()["regions"]["whole"]["ensemble"]["dice"]["mean"] == pytest.approx(sum(shifts) / 3)
    scalars = metrics.scalars()
    assert scalars["dice_whole"] == pytest.approx(0.75)
    assert scalars["dice_core"] == pytest.approx(2 / 3)
    assert scalars["dice"] == pytest.approx((0.75 + 2 / 3) / 2)
    assert scalars["draw_dice"] == pytest.approx((core["draw"]["dice"]["mean"] + (1 + 2 * 0.75) / 3) / 2)
    assert scalars["otsu_dice"] == 1


def test_the_table_shows_every_method_of_every_region():
    lines = make_split().table().splitlines()
    assert lines[0] == "Segmentation, 3 cases"
    assert [line.split()[:2] for line in lines[4:10]] == [
        ["core", "draw"],
        ["core", "ensemble"],
        ["whole", "draw"],
        ["whole", "ensemble"],
        ["whole", "otsu"],
        ["whole", "best_threshold"],
    ]
    assert "0.750 ± 0.250" in lines[7]
    assert max(map(len, lines)) <= 110
    metrics = SegmentationMetrics()
    assert "no case" in metrics.table()
    metrics.update("case", 0 * REFERENCE[None], REFERENCE)
    assert math.isnan(metrics.scalars()["hd95_mm_whole"])
    assert metrics.table().splitlines()[4].split() == ["whole", "draw", "0.000", "-", "0"]
    metrics.reset()
    assert metrics.rows() == []


def test_unfit_shapes_and_names_are_refused():
    with pytest.raises(ValueError, match=r"case: draws of shape \(1, 2, .* must be \(N, R, D, H, W\)"):
        rows([torch.zeros(2, *SIZE)])
    with pytest.raises(ValueError, match="name each mask channel once"):
        SegmentationMetrics(("whole", "whole"))
