"""Figures of sets against plain computations of them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from monai.metrics.mmd import compute_mmd

from monai_idm.metrics import ms_ssim
from monai_idm.metrics.diversity import pair_similarities, scales_that_fit
from monai_idm.metrics.set_figures import diversity, nearness, set_distances
from monai_idm.metrics.subsets import over_subsets
from monai_idm.metrics.volume import smallest_side
from monai_idm.metrics.volume_features import BINS, FEATURES


def seeded(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def feature_sets(a, b):
    return ({name: seeded(n, BINS, seed=n) for name in FEATURES} for n in (a, b))


def test_mmd_of_sets_of_one_size_is_monais():
    of, of_real = feature_sets(6, 6)
    of_real = {name: 2 * value for name, value in of_real.items()}
    spread = of_real["layout"].std(0)
    unit = spread.clamp(min=0.1 * float(spread.mean())) * BINS**0.5
    found = set_distances(of, of_real)["mmd_layout"].of_all()
    assert found == pytest.approx(float(compute_mmd(of_real["layout"] / unit, of["layout"] / unit, None)), rel=1e-4)


def test_mmd_of_sets_of_other_sizes_is_the_mean_over_subsets_of_one_size():
    of, of_real = feature_sets(6, 4)
    figure = set_distances(of, of_real)["mmd_texture"]
    parts = [figure.measure(torch.tensor(some)) for some in combinations(range(6), 4)]
    assert figure.of_all() == pytest.approx(sum(parts) / len(parts), rel=1e-9)


def test_nearness_counts_distances_below_those_of_95_percent():
    of_real = torch.arange(1, 102, dtype=torch.float64)  # the 5 % quantile is 6
    figures = nearness(torch.tensor([5.9, 6.0, 6.1, 50.0, 2.0]).double(), of_real)
    assert figures["share_too_near"].of_all() == pytest.approx(2 / 5)
    assert figures["nearest_rmse_median"].of_all() == pytest.approx(6.0)
    assert figures["nearest_rmse"].of_all() == pytest.approx(14.0)


def test_a_mean_over_subsets_is_that_over_the_set_and_a_minimum_is_not():
    values = seeded(40)
    means = over_subsets(lambda members: float(values[members].mean()), 40, 10)
    least = [over_subsets(lambda members: float(values[members].min()), 40, size)["mean"] for size in (5, 20, 40)]
    assert means["mean"] == pytest.approx(float(values.mean()), abs=2 * float(values.std()) / 80**0.5)
    assert least == sorted(least, reverse=True)
    assert least[2] == float(values.min())


def test_a_subset_has_no_member_twice_and_none_is_drawn_of_too_small_a_set():
    drawn = []
    over_subsets(lambda members: drawn.append(members.tolist()), 6, 4)
    assert len({tuple(members) for members in drawn}) > 1
    assert all(len(set(members)) == 4 for members in drawn)
    assert over_subsets(lambda members: 1.0, 3, 4) == {"mean": None, "sd_of_subsets": None}
    assert over_subsets(lambda members: None, 3, 2) == {"mean": None, "sd_of_subsets": None}
    assert over_subsets(lambda members: 1.0, 3, 3) == {"mean": 1.0, "sd_of_subsets": None}


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
def test_ms_ssim_has_as_many_scales_as_the_volume_has_room_for(scales):
    side = smallest_side(scales)
    volume, other = seeded(1, side, side, side + 3), seeded(1, side, side, side + 3, seed=1)
    assert scales_that_fit(volume) == scales
    assert scales_that_fit(volume[..., :-4]) == max(scales - 1, 1)  # one voxel less
    assert float(ms_ssim(volume, volume, scales=scales)) == pytest.approx(1)
    assert float(ms_ssim(volume, other, scales=scales)) < 0.2
    with pytest.raises(ValueError, match=f"smaller than {side} voxels on some axis, which {scales} scales"):
        ms_ssim(volume[..., :-4], volume[..., :-4], scales=scales)


def test_pairs_are_all_or_a_seeded_part_of_them():
    volumes = [seeded(2, 16, 14, 15, seed=seed).float() for seed in range(5)]
    every = pair_similarities(volumes, 10)
    assert every == {
        (i, j): float(ms_ssim(volumes[i], volumes[j], scales=2).mean()) for i, j in combinations(range(5), 2)
    }
    some = pair_similarities(volumes, 4)
    assert len(some) == 4
    assert some.items() < every.items()
    assert pair_similarities(volumes, 4) == some
    half = pair_similarities([volume.half() for volume in volumes], 10)
    assert max(abs(half[pair] - every[pair]) for pair in every) < 2e-4


def test_the_diversity_of_a_subset_is_of_its_own_pairs():
    volumes = [seeded(1, 14, 14, 14, seed=seed).float() for seed in (0, 0, 0, 1)]
    figure = diversity(volumes, 10)["diversity_ms_ssim"]
    assert figure.measure(torch.tensor([0, 1, 2])) == pytest.approx(1, abs=1e-5)
    assert figure.measure(torch.tensor([2])) is None
    assert figure.of_all() == pytest.approx((3 + 3 * figure.measure(torch.tensor([0, 3]))) / 6, abs=1e-5)
