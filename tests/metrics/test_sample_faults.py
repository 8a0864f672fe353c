"""Faults planted into phantoms are found by name; phantoms without faults are not accused."""

from __future__ import annotations

import pytest
import torch

from monai_idm.metrics import SampleFaults
from monai_idm.metrics.sample_faults import WHITE, roughness
from tests.metrics.test_generation import VOLUMES

GENERATOR = torch.Generator().manual_seed(0)


def faults_of(volumes, real=VOLUMES[:8]):
    faults = SampleFaults()
    for volume in real:
        faults.update(volume, volume != 0)
    return faults.found(torch.stack(list(volumes)))


def white(volumes):
    return [(0.5 + 0.3 * torch.randn(v.shape, generator=GENERATOR)).clamp(0, 1) for v in volumes]


FAULTS = {
    "noise": white,
    "black": lambda volumes: [0.05 * v for v in volumes],
    "saturated": lambda volumes: [(6 * v).clamp(0, 1) for v in volumes],
    "background": lambda volumes: [0.3 + 0.7 * v for v in volumes],
    "collapsed": lambda volumes: [volumes[0] + 0.01 * torch.rand(v.shape, generator=GENERATOR) for v in volumes],
}


def test_grain_on_a_brain_is_noise_too():
    grainy = [(v + 0.1 * torch.randn(v.shape, generator=GENERATOR)).clamp(0, 1) for v in VOLUMES[10:12]]
    assert set(faults_of(grainy)) == {"noise"}


@pytest.mark.parametrize("start", range(8, 24, 2))
def test_real_volumes_are_not_accused(start):
    assert faults_of(VOLUMES[start : start + 2]) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_with_its_likely_cause(fault):
    found = faults_of(FAULTS[fault](VOLUMES[10:12]))
    assert fault in found
    assert found[fault].startswith("generated volumes ")
    assert "; likely " in found[fault]
    assert set(found) == {fault}


def test_one_bad_volume_among_good_ones_is_enough():
    for fault in ("noise", "black", "saturated", "background"):
        assert fault in faults_of([*VOLUMES[10:12], *FAULTS[fault](VOLUMES[12:13])])


def test_what_any_real_brain_fills_is_no_background():
    faults = SampleFaults()
    half = torch.ones(1, 8, 8, 8)
    half[:, 4:] = 0
    speckled = half * torch.rand(1, 8, 8, 8, generator=GENERATOR)
    for volume, mask in ((speckled, half), (speckled.flip(1), half.flip(1)), (speckled, half)):
        faults.update(volume, mask)
    assert "background" not in faults.found(speckled.flip(1)[None] + 0.3 * half.flip(1))


def test_the_roughness_of_white_noise_is_known_whatever_its_strength():
    noise = torch.randn(2, 20, 20, 20, generator=GENERATOR)
    torch.testing.assert_close(roughness(noise), torch.full((2,), WHITE), rtol=0.03, atol=0)
    torch.testing.assert_close(roughness(7 * noise), roughness(noise))
    assert roughness(torch.ones(1, 4, 4, 4)) == 0


def test_faults_that_cannot_be_measured_are_not_reported():
    assert SampleFaults().found(torch.zeros(2, 1, 8, 8, 8)) == {}
    assert "collapsed" not in faults_of(VOLUMES[10:11])
    full = SampleFaults()  # brains that fill the volume: no air to look at
    for volume in VOLUMES[:3]:
        full.update(volume, torch.ones_like(volume))
    assert "background" not in full.found(torch.stack(FAULTS["background"](VOLUMES[10:12])))
    faults = SampleFaults()
    faults.update(VOLUMES[0], VOLUMES[0] != 0)
    faults.reset()
    assert faults.found(torch.zeros(2, 1, 8, 8, 8)) == {}
