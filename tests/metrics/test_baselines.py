"""The oracle blur against numpy, and against every other blur."""

import numpy as np
import pytest
import torch

from monai_idm.metrics import best_gaussian_blur, psnr
from monai_idm.metrics.baselines import BLUR_SIGMAS


def make_case(size=(20, 17, 22), noise=0.25):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 2, 5, 5, 5, generator=generator)
    reference = torch.nn.functional.interpolate(coarse, size=size, mode="trilinear")[0]
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, 4:-3, 3:-3, :] = True  # touches the border on one axis
    strength = torch.tensor([noise, noise / 5]).view(2, 1, 1, 1)
    return reference + strength * torch.randn(reference.shape, generator=generator), reference, mask


def numpy_blur(volume: np.ndarray, sigma: float) -> np.ndarray:
    """Separable, border replicated, weights the Gaussian's integral over each voxel."""
    tail = int(max(4 * sigma, 0.5) + 0.5)
    edges = torch.arange(-tail, tail + 2, dtype=torch.float64) - 0.5
    weights = torch.special.ndtr(edges / sigma).diff().numpy()
    weights /= weights.sum()
    for axis in range(volume.ndim):
        padded = np.pad(volume, [(tail, tail) if a == axis else (0, 0) for a in range(volume.ndim)], "edge")
        volume = np.apply_along_axis(lambda line: np.convolve(line, weights, "valid"), axis, padded)
    return volume


def test_the_blur_is_a_gaussian_with_replicated_border():
    noisy, reference, mask = make_case()
    blurred, sigma = best_gaussian_blur(noisy, reference, mask, sigmas=(1.3,), value_range=None)
    assert sigma.tolist() == pytest.approx([1.3, 1.3])
    for c in range(2):
        expected = numpy_blur(noisy[c].double().numpy(), 1.3)
        np.testing.assert_allclose(blurred[c].numpy(), expected, atol=1e-5)


def test_no_other_sigma_does_better_in_any_channel():
    noisy, reference, mask = make_case()
    blurred, sigma = best_gaussian_blur(noisy, reference, mask)
    chosen = psnr(blurred, reference, mask)
    for other in BLUR_SIGMAS:
        candidate, _ = best_gaussian_blur(noisy, reference, mask, sigmas=(other,))
        assert (psnr(candidate, reference, mask) <= chosen).all()
    assert sigma[0] > sigma[1] > 0  # more noise, wider blur
    assert (chosen > psnr(noisy.clamp(0, 1), reference, mask) + 1).all()


def test_the_grid_is_fine_enough():
    noisy, reference, mask = make_case()
    blurred, _ = best_gaussian_blur(noisy, reference, mask)
    finest, _ = best_gaussian_blur(noisy, reference, mask, sigmas=np.arange(0, 3, 0.02).tolist())
    assert (psnr(finest, reference, mask) - psnr(blurred, reference, mask)).max() < 0.05


def test_a_clean_volume_stays_as_it_is():
    _, reference, mask = make_case()
    blurred, sigma = best_gaussian_blur(reference, reference, mask)
    assert sigma.tolist() == [0, 0]
    assert torch.equal(blurred, reference)


def test_clipping_never_harms():
    noisy, reference, mask = make_case(noise=1.0)
    clipped, _ = best_gaussian_blur(noisy, reference, mask, sigmas=(0.5,))
    free, _ = best_gaussian_blur(noisy, reference, mask, sigmas=(0.5,), value_range=None)
    assert clipped.min() >= 0
    assert clipped.max() <= 1
    assert (psnr(clipped, reference, mask) > psnr(free, reference, mask)).all()


def test_images_and_no_mask_are_taken():
    noisy, reference, _ = make_case()
    blurred, sigma = best_gaussian_blur(noisy[:, 8], reference[:, 8])
    assert blurred.shape == (2, 17, 22)
    assert sigma.shape == (2,)


@pytest.mark.parametrize("sigmas", [(), (0, -1.0)])
def test_sigmas_are_not_negative_and_not_absent(sigmas):
    noisy, reference, mask = make_case()
    with pytest.raises(ValueError, match="one or more standard deviations in voxels"):
        best_gaussian_blur(noisy, reference, mask, sigmas)
