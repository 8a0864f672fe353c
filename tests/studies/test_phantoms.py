"""The studies on phantoms, at a tiny size."""

from __future__ import annotations

import json

import pytest

from idm_bundle.studies import (
    optimizers,
    quality,
    real,
    segmentation,
    synthesis,
    warning,
)
from idm_bundle.studies.configs import SMALLEST, configured
from idm_bundle.studies.runs import demo
from idm_bundle.studies.segmentation import _PATCHDDM, _VARIANTS, compare, sample
from monai_idm.data import dataset_or_phantoms
from monai_idm.schedulers import StridedDDPMScheduler, noise_levels
from tests.bundle.workspace import TINY

DEMO = {name: TINY[name] for name in ("device", "demo#num_subjects", "demo#phantom_size")}
# one epoch instead of ten, each with a checkpoint
ONCE = {"demo#epoch_length": 2, "demo#max_epochs": 1, "demo#val_interval": 1}


@pytest.mark.parametrize(("study", "variant"), [(s, v) for s, variants in _VARIANTS.items() for v in variants])
def test_every_variant_is_a_network_that_takes_its_images(study, variant, tmp_path):
    changes = _VARIANTS[study][variant]
    config = configured({**demo(str(tmp_path), 10, 32), **changes}, "segmentation")
    network = config.get_parsed_content("network_def")
    regions, conditions = len(changes.get("regions", ["whole"])), 7 if changes.get("coordinates", True) else 4
    assert (network.in_channels, network.out_channels) == (regions + conditions, regions)
    assert ("network_def" in changes) == (type(network).__name__ == "PatchDiffusionUNet")
    assert getattr(network, "skips", "averaged") == changes.get("network_def#skips", "averaged")
    assert config.get_parsed_content("patch_size") == changes.get("patch_size", [32, 32, 32])


@pytest.mark.parametrize("network", [{}, _PATCHDDM])
def test_a_variant_is_trained_measured_and_judged(network):
    small = {**DEMO, **ONCE, "patch_size": [8, 8, 8], "num_inference_steps": 2}
    found = compare({**small, **network}, steps=10, side=16, seed=1, in_patches=True)
    assert found["parameters"] > 1e6
    assert 10 < found["peak_mib"] < 200
    assert found["step_s"] > 0
    assert found["step_gflop"] > 0.5
    for name in ("draw_dice", "dice", "otsu_dice", "best_threshold_dice", "dice_in_patches"):
        assert 0 <= found[name] <= 1


def test_peers_are_judged_alike_and_compared_case_by_case(monkeypatch):
    monkeypatch.setattr(quality, "_NUM_SAMPLES", 2)
    small = {**DEMO, **ONCE, "num_inference_steps": 2}
    found = {
        name: quality.evaluate_variant({**small, **partial.args[0]}, steps=10, side=16, **partial.keywords)
        for name, partial in quality.STUDIES["peers"].items()
        if name.endswith("seed 2")
    }
    ours, theirs = found.values()
    assert theirs["parameters"] == pytest.approx(ours["parameters"], rel=0.01)
    for t in ("t250", "t500"):
        assert ours[t]["gaussian_blur_psnr_brain"] == theirs[t]["gaussian_blur_psnr_brain"]  # the same noise
        assert ours[t]["reconstruction_ssim_brain"] == pytest.approx(sum(ours[t]["ssim_of"].values()))  # one case
        difference = ours[t]["reconstruction_ssim_brain"] - theirs[t]["reconstruction_ssim_brain"]
        assert quality.compare(found)[t]["mean"] == pytest.approx(difference)
    assert ours["generation"]["nearest_rmse"] > 0
    assert quality.compare({name: ours for name in found if name.startswith("rev")})["t250"]["n"] == 0


def test_stored_and_rebuilt_activations_have_the_same_losses_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(quality, "demo", lambda *sizes: {**demo(*sizes, epochs=1, validations=1), **SMALLEST})
    found = quality.twin(10, 8)
    assert found["different"] == found["difference"] == 0
    assert found["last_loss"] != found["first_loss"]


def test_a_contrast_is_made_in_few_steps_and_in_one_pass(monkeypatch):
    monkeypatch.setattr(synthesis, "demo", lambda *sizes: {**demo(*sizes, epochs=1, validations=1), **SMALLEST})
    monkeypatch.setattr(synthesis, "DRAWS_OF", ((1, 1), (2, 2)))
    study = synthesis.STUDIES["few_steps"]
    found = study["diffusion"](steps=4, side=16)
    assert found["1 steps"]["psnr_t2_brain"] != found["2 steps"]["draw_psnr_t2_brain"]
    assert study["regression"](steps=4, side=16).keys() == {"step_s", "1 steps"}


def test_optimizers_are_compared_on_each_task(monkeypatch):
    monkeypatch.setattr(optimizers, "demo", lambda *sizes: {**demo(*sizes, epochs=1, validations=1), **SMALLEST})
    study = optimizers.STUDIES["optimizers"]
    muon, adamw = (study[name](steps=4, side=16) for name in ("Muon", "AdamW"))
    assert muon.keys() == adamw.keys()
    assert muon["reconstruction_psnr_brain"] != adamw["reconstruction_psnr_brain"]
    monkeypatch.setattr(segmentation, "compare", lambda *values: values)
    assert study["segmentation, AdamW"](steps=2, side=16) == ({"muon": False}, 2, 16)


def test_one_network_is_judged_on_several_missing_contrasts():
    changes = {**SMALLEST, **ONCE, "modalities": ["t1", "t2", "flair"], "known": None}
    found = synthesis.compare(changes, [["t1"], ["t2", "flair"]], steps=10, side=8)
    assert {"psnr_t2_brain", "psnr_flair_brain", "lookup_psnr_brain"} <= found["t1"].keys()
    assert "psnr_t1_brain" in found["t2, flair"]
    assert "psnr_t2_brain" not in found["t2, flair"]


def test_a_network_that_has_learned_nothing_yet_is_warned_of(monkeypatch):
    monkeypatch.setattr(warning, "demo", lambda *sizes, **options: {**demo(*sizes, **options), **SMALLEST})
    found = warning.warned(10, 8)
    assert len(found["training"]) >= 5
    assert found["clean"]
    assert set(found["clean"]) <= set(found["training"])  # model.pt is of one of the validations
    assert any("are noisy" in sentence for sentence in found["planted: weights that were not trained"])
    assert len(found) == 7


def test_a_folder_of_two_cases_is_trained_on_one_and_judged_on_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "_NUM_SAMPLES", 2)
    values = real._short_run
    few = {"max_epochs": 2, "val_interval": 2}
    monkeypatch.setattr(real, "_short_run", lambda *sizes: {**values(*sizes), **SMALLEST, **few})
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 2, DEMO["demo#phantom_size"], 0)
    generated, synthetic = (
        real.STUDIES["real"][name](steps=10, side=8, dataset_dir=str(folder))
        for name in ("reconstruction and generation", "T2 to T1")
    )
    assert generated["t500"]["reconstruction_psnr_brain"] > 5
    assert generated["generation"]["nearest_rmse"] > 0
    assert "PHANTOM" not in json.dumps(generated)  # no case is named
    assert {"psnr_t1_brain", "lookup_psnr_t1_brain"} <= synthetic["t2"].keys()


@pytest.mark.parametrize("prediction_type", ["flow", "v_prediction"])
@pytest.mark.parametrize("noise_shift", [1.0, 2.0])
def test_reconstructions_start_from_the_same_noise(prediction_type, noise_shift):
    options = {"prediction_type": prediction_type, "noise_shift": noise_shift}
    alpha, sigma = noise_levels(StridedDDPMScheduler(2000, "cosine", **options), quality.timestep_of(options, 250))
    assert sigma / alpha == pytest.approx(0.2107, abs=0.001)


def test_sampling_is_judged_by_num_inference_steps_and_draws(monkeypatch):
    asked = []
    monkeypatch.setattr(segmentation, "train", lambda *values: None)
    monkeypatch.setattr(segmentation, "_evaluate", lambda values: asked.append(values) or {"dice": 0.5})
    found = sample(10, 16)
    assert {"DDIM, 1000 passes", "Heun, 9 passes", "10 draws"} <= found.keys()
    assert len(asked) == len(found)
