"""Each metric against a few lines of numpy."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_idm.metrics.volume import mae, psnr, rmse, ssim3d, ssim_map

SIZES = [(9, 11, 8), (12, 10)]


def make_case(size, channels=2):
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(channels, *size, generator=generator)
    pred = (reference + 0.1 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    mask = torch.rand(1, *size, generator=generator) < 0.4
    return pred, reference, mask


def numpy_ssim(pred, reference, mask, data_range):
    """Wang et al.'s formula, averaged over the windows centred in the mask."""
    pred, reference = pred.double().numpy(), reference.double().numpy()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for corner in np.ndindex(*(n - 6 for n in pred.shape)):
        if not mask[tuple(i + 3 for i in corner)]:
            continue
        window = tuple(slice(i, i + 7) for i in corner)
        x, y = pred[window].ravel(), reference[window].ravel()
        covariance = np.cov(x, y, bias=True)
        values.append(
            (2 * x.mean() * y.mean() + c1)
            / (x.mean() ** 2 + y.mean() ** 2 + c1)
            * (2 * covariance[0, 1] + c2)
            / (covariance[0, 0] + covariance[1, 1] + c2)
        )
    return np.mean(values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("data_range", [1.0, 2.5])
def test_metrics_equal_their_formulas(size, masked, data_range):
    pred, reference, mask = make_case(size)
    given = mask if masked else None
    inside = mask[0].numpy() if masked else np.ones(size, bool)
    for c in range(2):
        error = (pred[c] - reference[c]).double().numpy()[inside]
        expected = 20 * np.log10(data_range) - 10 * np.log10((error**2).mean())
        assert psnr(pred, reference, given, data_range)[c].item() == pytest.approx(expected, abs=1e-4)
        assert mae(pred, reference, given)[c].item() == pytest.approx(np.abs(error).mean(), abs=1e-6)
        assert rmse(pred, reference, given)[c].item() == pytest.approx((error**2).mean() ** 0.5, abs=1e-6)
        expected = numpy_ssim(pred[c], reference[c], inside, data_range)
        assert ssim3d(pred, reference, given, data_range)[c].item() == pytest.approx(expected, abs=1e-5)


def test_equal_volumes_have_infinite_psnr_and_ssim_one():
    _, reference, mask = make_case((8, 8, 9))
    assert psnr(reference, reference, mask).tolist() == [float("inf")] * 2
    torch.testing.assert_close(ssim3d(reference, reference, mask), torch.ones(2))
    assert mae(reference, reference, mask).tolist() == [0, 0]


def test_a_mask_per_channel_counts_per_channel():
    pred, reference, mask = make_case((8, 9, 10))
    masks = torch.cat([mask, ~mask])
    for metric in (psnr, mae, rmse, ssim3d):
        expected = torch.stack([metric(pred, reference, mask)[0], metric(pred, reference, ~mask)[1]])
        torch.testing.assert_close(metric(pred, reference, masks), expected)


def test_what_lies_outside_the_mask_does_not_matter():
    pred, reference, mask = make_case((8, 9, 10))
    spoiled = torch.where(mask, pred, torch.nan)
    torch.testing.assert_close(psnr(spoiled, reference, mask), psnr(pred, reference, mask))


def test_ssim_sees_windows_that_reach_out_of_the_mask_but_not_out_of_the_volume():
    pred, reference, _ = make_case((9, 9, 9))
    mask = torch.zeros(1, 9, 9, 9, dtype=torch.bool)
    mask[0, 4, 5, 3] = mask[0, 0, 0, 0] = True  # the window of the second one does not fit
    torch.testing.assert_close(ssim3d(pred, reference, mask), ssim_map(pred, reference)[:, 1, 2, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    pred = torch.full((1, 60, 60, 60), 0.7, dtype=dtype)
    reference, mask = torch.zeros_like(pred), torch.ones_like(pred)
    result = mae(pred, reference, mask)  # in float16 the sum overflows, in bfloat16 it is off by a hundredth
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(pred[0, 0, 0, 0].item(), rel=1e-5)


def test_metadata_and_float_masks_are_taken():
    pred, reference, mask = make_case((8, 9, 10))
    result = psnr(MetaTensor(pred), MetaTensor(reference), MetaTensor(mask.float()))
    assert type(result) is torch.Tensor
    torch.testing.assert_close(result, psnr(pred, reference, mask))


@pytest.mark.parametrize("metric", [psnr, mae, rmse, ssim3d])
def test_shapes_that_do_not_match_are_refused(metric):
    x = torch.rand(2, 8, 8, 8)
    with pytest.raises(ValueError, match="differ in shape; bring both to one grid"):
        metric(x, x[:, :7])
    with pytest.raises(ValueError, match=r"give one volume \(C, D, H, W\)"):
        metric(x[None], x[None])
    with pytest.raises(ValueError, match=r"mask of shape \(1, 8, 8\) does not fit .* \(2, \.\.\.\)"):
        metric(x, x, torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match=r"mask of shape \(3, 8, 8, 8\) does not fit"):
        metric(x, x, torch.ones(3, 8, 8, 8))


@pytest.mark.parametrize("metric", [psnr, mae, rmse, ssim3d])
def test_an_empty_mask_is_refused_by_channel(metric):
    x, mask = torch.rand(2, 8, 8, 8), torch.ones(2, 8, 8, 8)
    mask[1] = 0
    with pytest.raises(ValueError, match=r"no voxel to average over in channel \[1\]"):
        metric(x, x, mask)


def test_a_mask_in_the_margin_holds_no_window():
    x, mask = torch.rand(1, 8, 8, 8), torch.zeros(1, 8, 8, 8)
    mask[..., :3] = 1
    with pytest.raises(ValueError, match="no voxel to average over"):
        ssim3d(x, x, mask)


def test_volumes_smaller_than_the_window_are_refused():
    x = torch.rand(1, 8, 6, 8)
    with pytest.raises(ValueError, match=r"\(8, 6, 8\) is smaller than the SSIM window of 7 voxels"):
        ssim3d(x, x)


def test_a_data_range_is_positive():
    x = torch.rand(1, 8, 8, 8)
    with pytest.raises(ValueError, match="largest minus smallest"):
        psnr(x, x, data_range=0)
