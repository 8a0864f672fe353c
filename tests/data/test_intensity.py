"""The window includes air and the brain's percentiles; both scalings can be inverted, and record what is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, ScaleIntensityRanged

from monai_idm.data import ScaleToNetworkRanged, ToImageRanged, WindowIntensityd
from monai_idm.data.intensity import air_level
from tests.data.cases import SHAPE, smooth_brain


def make_data(*channels: np.ndarray) -> dict:
    image = torch.as_tensor(np.stack(channels), dtype=torch.float32)
    return {"image": MetaTensor(image), "mask": MetaTensor((image != 0).any(0, keepdim=True).float())}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_window_is_the_percentiles_of_the_brain_not_of_the_air(scale):
    brain = scale * smooth_brain()
    data = WindowIntensityd("image", lower=2, upper=97)(make_data(brain))
    window = data["image"].meta["window"]
    high = np.percentile(brain[brain != 0], 97)
    assert window["lo"] == [0.0]  # air is below the darkest voxel of this brain
    np.testing.assert_allclose(window["hi"], high, rtol=1e-6)
    np.testing.assert_allclose(data["image"][0].numpy(), np.clip(brain / high, 0, 1), atol=1e-6)
    np.testing.assert_allclose(window["clipped"], np.mean(brain[brain != 0] > high), atol=1e-3)


def test_air_stays_exactly_zero_where_nothing_is_negative():
    data = make_data(smooth_brain())
    assert not WindowIntensityd("image")(data)["image"][:, data["mask"][0] == 0].any()


@pytest.mark.parametrize(
    ("offset", "level"),
    [(0.0, "bottom"), (-0.5, "inside"), (-2.0, "top")],
    ids=["usual", "z-scores", "negative"],
)
def test_air_is_always_inside_the_window(offset, level):
    brain = smooth_brain()
    brain[brain != 0] += offset
    image = WindowIntensityd("image")(make_data(brain))["image"]
    air = image[0, 0, 0, 0]
    assert image.min() == 0
    assert image.max() == 1
    assert {"bottom": air == 0, "inside": 0 < air < 1, "top": air == 1}[level]
    torch.testing.assert_close(air_level(image).flatten()[0], air.as_tensor(), rtol=1e-6, atol=1e-7)


def test_each_channel_has_its_own_window():
    brain = smooth_brain()
    image = WindowIntensityd("image")(make_data(brain, 1e6 * brain, -brain))["image"]
    torch.testing.assert_close(image[0].as_tensor(), image[1].as_tensor())
    torch.testing.assert_close(image[0].as_tensor(), 1 - image[2].as_tensor())


def test_an_outlier_is_clipped_and_counted():
    brain = smooth_brain()
    voxels = np.argwhere(brain != 0)
    brain[tuple(voxels[:3].T)] = 1e6
    brain[tuple(voxels[3:5].T)] = -1e6
    window = WindowIntensityd("image", lower=1, upper=99)(make_data(brain))["image"].meta["window"]
    assert window["lo"] == [0.0]
    assert window["hi"][0] < 1
    values = brain[brain != 0]
    np.testing.assert_allclose(window["clipped"], np.mean((values < 0) | (values > window["hi"][0])), rtol=1e-6)
    assert window["clipped"][0] > 5 / len(values)


def test_the_inverse_gives_back_all_but_what_was_clipped():
    brain = 1e4 * smooth_brain() - 300 * (smooth_brain() != 0)
    transform = WindowIntensityd("image")
    image = transform(make_data(brain, brain**2))["image"]
    window = image.meta["window"]
    back = transform.inverse({"image": image})["image"]
    for channel, original, lo, hi in zip(back, (brain, brain**2), window["lo"], window["hi"], strict=True):
        np.testing.assert_allclose(channel.numpy(), np.clip(original, lo, hi), atol=1e-6 * (hi - lo))
    assert not back.applied_operations


def test_the_record_survives_collate_and_decollate():
    items = [make_data(scale * smooth_brain(seed=1), smooth_brain(seed=2)) for scale in (1, 7)]
    transform = WindowIntensityd("image")
    expected = [transform(item)["image"].meta["window"] for item in items]
    [batch] = DataLoader(Dataset(items, transform), batch_size=2)
    assert [item["image"].meta["window"] for item in decollate_batch(batch)] == expected
    assert all(type(x) is float for window in expected for values in window.values() for x in values)


def test_the_input_is_left_as_it_was():
    data = make_data(smooth_brain())
    before = data["image"].clone()
    WindowIntensityd("image")(data)
    assert "window" not in data["image"].meta
    torch.testing.assert_close(data["image"], before, rtol=0, atol=0)


@pytest.mark.parametrize("value", [3.0, -3.0])
def test_a_constant_brain_is_an_error(value):
    flat = np.where(smooth_brain() != 0, value, 0.0)
    with pytest.raises(ValueError, match=rf"channel 1 .* is {value:g} from percentile 0.5 to 99.5.*contrast"):
        WindowIntensityd("image")(make_data(smooth_brain(), flat))


def test_an_empty_mask_is_an_error():
    data = make_data(smooth_brain())
    with pytest.raises(ValueError, match=r"brain mask .* is empty"):
        WindowIntensityd("image")(data | {"mask": torch.zeros(1, *SHAPE)})


@pytest.mark.parametrize(("lower", "upper"), [(50, 50), (99, 1), (-1, 99), (1, 101)])
def test_percentiles_out_of_order_are_an_error(lower, upper):
    with pytest.raises(ValueError, match=r"must satisfy 0 <= lower < upper <= 100"):
        WindowIntensityd("image", lower=lower, upper=upper)


def test_a_prediction_with_other_channels_is_an_error():
    transform = WindowIntensityd("image")
    image = transform(make_data(smooth_brain(), smooth_brain()))["image"]
    with pytest.raises(ValueError, match="'image' comes back with 1 channels, but the image had 2"):
        transform.inverse({"image": image[:1]})


@pytest.mark.parametrize(("minimum", "maximum"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)])
def test_network_range_and_back(minimum, maximum):
    x = MetaTensor(torch.rand(2, 5, 4, 3))
    transform = Compose([ScaleToNetworkRanged("image", minimum, maximum)])
    y = transform({"image": x})["image"]
    torch.testing.assert_close(y.as_tensor(), (minimum + (maximum - minimum) * x).as_tensor())
    data = Invertd("pred", transform, "image")({"image": y, "pred": MetaTensor(y.as_tensor())})
    torch.testing.assert_close(data["pred"].as_tensor(), x.as_tensor(), rtol=0, atol=1e-6)


def test_the_inverse_clips_what_a_network_overshoots():
    transform = ScaleToNetworkRanged("image")
    y = transform({"image": MetaTensor(torch.rand(1, 4, 4, 4))})["image"]
    assert transform.inverse({"image": 3 * y - 0.1})["image"].aminmax() == (0, 1)


@pytest.mark.parametrize("network_range", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
@pytest.mark.parametrize("clip", [True, False])
def test_plain_images_come_back_by_monais_transform(network_range, clip):
    x = torch.rand(2, 5, 4, 3)
    low, high = network_range
    y = ScaleToNetworkRanged("pred", low, high)({"pred": x})["pred"]
    back = ToImageRanged("pred", network_range, clip)
    torch.testing.assert_close(back({"pred": y})["pred"].as_tensor(), x)
    beyond = {"pred": MetaTensor(3 * y - 0.1, affine=2 * torch.eye(4))}
    theirs = ScaleIntensityRanged("pred", a_min=low, a_max=high, b_min=0, b_max=1, clip=clip)
    found, expected = back(beyond)["pred"], theirs(beyond)["pred"]
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)
    assert (found.min() >= 0 and found.max() <= 1) == clip


@pytest.mark.parametrize("network_range", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
def test_a_variance_comes_back_as_that_of_the_images(network_range):
    draws = torch.rand(6, 2, 5, 4, 3)
    seen = ScaleToNetworkRanged("draws", *network_range)({"draws": draws})["draws"]
    found = ToImageRanged("variance", network_range, squared=True)({"variance": seen.var(0)})["variance"]
    torch.testing.assert_close(found.as_tensor(), draws.var(0))


def test_an_empty_network_range_is_an_error():
    with pytest.raises(ValueError, match=r"minimum=1.* must be below maximum=1"):
        ScaleToNetworkRanged("image", 1, 1)


def test_a_brain_far_from_its_air_is_an_error():
    brain = np.where(smooth_brain() != 0, smooth_brain() + 1024, 0.0)
    with pytest.raises(
        ValueError, match=r"channel 0 .* is 1024.* in the brain, a small range compared with its distance"
    ):
        WindowIntensityd("image")(make_data(brain))


def test_without_metadata_a_window_that_moves_the_air_is_an_error():
    data = make_data(smooth_brain() - 0.3 * (smooth_brain() != 0))
    with pytest.raises(ValueError, match=r"'image' has intensities below its air, and a Tensor cannot record"):
        WindowIntensityd("image")(data | {"image": data["image"].as_tensor()})
