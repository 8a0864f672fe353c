"""Phantoms: reproducible, with the shape and contrast of brains, and not predictable by a table or a mean image."""

import nibabel as nib
import numpy as np
import pytest

from monai_idm.data import phantom as phantom_module
from monai_idm.data.phantom import GENERATOR, MODALITIES, generate_phantom
from monai_idm.data.phantom_contrast import TISSUES

SIZE = (48, 48, 32)


@pytest.fixture(scope="module")
def heads():
    return [generate_phantom(seed, SIZE) for seed in range(12)]


@pytest.fixture(scope="module")
def scaled(heads):
    """For each head its mask, and its modalities scaled to [0, 1]."""
    return [(h.images["t1"] != 0, {m: in_window(v) for m, v in h.images.items()}) for h in heads]


def in_window(image):
    """Scaled by the brain's 0.5 and 99.5 percentiles, 0 included in the window."""
    low, high = np.percentile(image[image != 0], [0.5, 99.5])
    low = min(low, 0.0)
    return np.clip((image - low) / (high - low), 0, 1)


def psnr_db(guess, truth):
    return -10 * np.log10(np.mean((guess - truth) ** 2))


def table(source, target, bins):
    """The best table from intensity to intensity: the target's mean in each bin of the source."""
    index = np.minimum((source * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    return np.bincount(index, target, bins) / np.maximum(count, 1)


def looked_up(values, source):
    return values[np.minimum((source * len(values)).astype(int), len(values) - 1)]


# reproducible -----------------------------------------------------------------------------------------------


def test_same_seed_gives_same_voxels(heads):
    again = generate_phantom(3, SIZE)
    for modality in MODALITIES:
        np.testing.assert_array_equal(again.images[modality], heads[3].images[modality])
    np.testing.assert_array_equal(again.label, heads[3].label)


def test_voxels_belong_to_the_generator_version(heads):
    """If this fails, the heads have changed: raise the number in GENERATOR and update the values below."""
    means = [heads[0].images[m].mean() for m in MODALITIES]
    assert GENERATOR == "monai_idm phantom 2"
    np.testing.assert_allclose(means, [60.434, 137.481, 133.118, 61.392], rtol=1e-3)
    assert np.bincount(heads[0].label.ravel(), minlength=5).tolist() == pytest.approx([73200, 52, 364, 0, 112], abs=3)


def test_different_seeds_give_different_heads(heads):
    first, second = heads[:2]
    both = (first.images["t1"] != 0) & (second.images["t1"] != 0)
    assert np.mean((first.images["t1"] != 0) != (second.images["t1"] != 0)) > 0.005
    assert abs(np.corrcoef(first.images["t1"][both], second.images["t1"][both])[0, 1]) < 0.5
    assert not np.array_equal(first.label, second.label)


def test_modality_is_independent_of_those_asked_for(heads):
    few = generate_phantom(2, SIZE, modalities=("flair", "t1"))
    assert list(few.images) == ["flair", "t1"]
    for modality, voxels in few.images.items():
        np.testing.assert_array_equal(voxels, heads[2].images[modality])
    np.testing.assert_array_equal(few.label, heads[2].label)


def test_same_head_at_another_size(heads):
    fine = generate_phantom(1, [2 * n for n in SIZE]).images["t2"].astype(float)
    blocks = fine.reshape(48, 2, 48, 2, 32, 2).mean((1, 3, 5))
    coarse = heads[1].images["t2"]
    full = coarse != 0
    assert np.corrcoef(blocks[full], coarse[full])[0, 1] > 0.9
    assert np.corrcoef(heads[0].images["t2"][full], coarse[full])[0, 1] < 0.7


# shape ------------------------------------------------------------------------------------------------------


def test_background_is_zero_and_brain_is_not(heads):
    for head in heads:
        masks = [head.images[m] != 0 for m in MODALITIES]
        assert 0.1 < masks[0].mean() < 0.5
        assert all(np.array_equal(masks[0], other) for other in masks[1:])
        assert not head.label[~masks[0]].any()
        assert not any(masks[0][edge].any() for edge in (0, -1)), "the brain is cut off at the left or right"


def test_noise_makes_no_hole_in_the_brain(monkeypatch):
    """A brain voxel of value 0 would be read as background."""
    monkeypatch.setattr(phantom_module, "NOISE", 1.0)
    t1, t2, flair = generate_phantom(0, SIZE, ("t1", "t2", "flair")).images.values()
    assert np.array_equal(t1 != 0, t2 != 0)
    assert np.array_equal(t1 != 0, flair != 0)
    assert (flair < 0).any()


def test_brains_are_scaled_as_scanners_do(heads):
    tops = np.array([[np.percentile(h.images[m][h.images[m] != 0], 99.5) for m in MODALITIES] for h in heads])
    assert tops.min() > 300
    assert tops.max() < 3000
    assert (tops.max(0) > 1.5 * tops.min(0)).all()
    assert all(h.images["t1"].dtype == np.int16 and h.label.dtype == np.uint8 for h in heads)


@pytest.mark.parametrize("size", [(240, 240, 155), (48, 48, 32), (17, 16, 19)])
def test_affine_is_lps_over_the_same_field_of_view(size):
    affine = phantom_module._affine(size)
    assert nib.aff2axcodes(affine) == ("L", "P", "S")
    edges = nib.affines.apply_affine(affine, [(-0.5, -0.5, -0.5), np.array(size) - 0.5])
    np.testing.assert_allclose(edges, [(0.5, 239.5, -0.5), (-239.5, -0.5, 154.5)], atol=1e-9)


def test_native_affine_is_that_of_brats():
    brats = [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(phantom_module._affine((240, 240, 155)), brats)


def test_every_label_of_brats_occurs(heads):
    for head in heads:
        assert np.unique(head.label).tolist() == [0, 1, 2, 4]


def test_tumours_differ_widely_in_size(heads):
    volumes = [np.isin(h.label, (1, 4)).sum() for h in heads]
    assert max(volumes) > 3 * min(volumes)


# contrast ---------------------------------------------------------------------------------------------------


def test_tissue_values_follow_the_order_of_the_contrasts():
    t1, t1ce, t2, flair = ({t: v[i] for t, v in TISSUES.items()} for i in range(4))
    assert t1["white"] > t1["cortex"] > t1["csf"] > t1["ventricle"]
    assert t2["csf"] > t2["oedema"] > t2["cortex"] > t2["white"]
    assert flair["oedema"] > flair["rim"] > flair["cortex"] > flair["csf"]
    assert t1ce["rim"] == max(t1ce.values())
    assert t1ce["rim"] > 1.5 * t1["rim"]


def test_t1_and_t2_correlate_negatively_in_the_brain(scaled):
    correlation = [np.corrcoef(v["t1"][mask], v["t2"][mask])[0, 1] for mask, v in scaled]
    assert max(correlation) < 0
    assert -0.6 < np.mean(correlation) < -0.3


def test_rim_enhances(heads):
    for head in heads:
        t1, t1ce = (head.images[m] / head.images[m][head.images[m] != 0].mean() for m in ("t1", "t1ce"))
        rim = head.label == 4
        assert t1ce[rim].mean() > 1.2 * t1[rim].mean()


def test_oedema_is_bright_in_flair(heads):
    for head in heads:
        flair = head.images["flair"]
        assert 1.4 < flair[head.label == 2].mean() / flair[flair != 0].mean() < 1.9


def test_oedema_and_csf_are_alike_in_t2_and_opposite_in_flair(heads):
    t2_of_oedema, t2_of_csf = [], []
    for head in heads:
        t2, flair = (head.images[m] / head.images[m][head.images[m] != 0].mean() for m in ("t2", "flair"))
        oedema, csf = head.label == 2, (flair != 0) & (flair < 0.5)
        assert flair[oedema].mean() > 3 * flair[csf].mean()
        t2_of_oedema.append(t2[oedema].mean())
        t2_of_csf.append(t2[csf].mean())
    assert min(t2_of_oedema + t2_of_csf) > 1.2
    assert np.mean(t2_of_csf) == pytest.approx(np.mean(t2_of_oedema), abs=0.4)


# hard to predict --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [64, 128])
def test_table_from_t1_to_t2_is_poor(scaled, bins):
    """Even a table fitted to the head that it is tested on, which is never available in practice."""
    pairs = [(v["t1"][mask], v["t2"][mask]) for mask, v in scaled]
    own = [psnr_db(looked_up(table(a, b, bins), a), b) for a, b in pairs]
    assert max(own) < 24
    train = [np.concatenate(part) for part in zip(*pairs[:8], strict=True)]
    common = table(*train, bins)
    unseen = [psnr_db(looked_up(common, a), b) for a, b in pairs[8:]]
    assert 16 < np.mean(unseen) < 22


@pytest.mark.parametrize("modality", MODALITIES)
def test_mean_image_is_poor(scaled, modality):
    total = sum(v[modality] for _, v in scaled)
    for mask, values in scaled:
        others = (total - values[modality]) / (len(scaled) - 1)
        assert psnr_db(others[mask], values[modality][mask]) < 19


def test_neighbourhood_tells_what_the_voxel_does_not(scaled):
    """Correcting the table linearly, by T1 around the voxel and its position, helps in unseen heads."""

    def features(mask, values):
        t1 = values["t1"]
        around = [np.roll(t1, step, axis)[mask] for axis in range(3) for step in (-2, -1, 1, 2)]
        position = np.argwhere(mask)
        position = ((position - position.mean(0)) / position.std(0)).T
        return np.stack([looked_up(common, t1[mask]), np.ones(mask.sum()), *around, *position, *position**2], axis=1)

    t1, t2 = (np.concatenate([v[m][mask] for mask, v in scaled[:8]]) for m in ("t1", "t2"))
    common = table(t1, t2, 64)
    weights = np.linalg.lstsq(np.concatenate([features(*case) for case in scaled[:8]]), t2, rcond=None)[0]
    gain_db = []
    for mask, values in scaled[8:]:
        x, y = features(mask, values), values["t2"][mask]
        gain_db.append(psnr_db(x @ weights, y) - psnr_db(x[:, 0], y))
    assert np.mean(gain_db) > 0.4
