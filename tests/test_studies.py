"""The studies at a tiny size."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from idm_bundle.studies import __main__ as command
from idm_bundle.studies import (
    anatomy,
    brain_tasks,
    brains,
    course,
    kills,
    optimizers,
    quality,
    real,
    real_or_generated,
    runs,
    segmentation,
    soak,
    switches,
    synthesis,
    tissues,
    warning,
)  # fmt: skip
from idm_bundle.studies.configs import SMALLEST, configured
from idm_bundle.studies.runs import demo
from idm_bundle.studies.segmentation import _PATCHDDM, _VARIANTS, compare, sample
from monai_idm.data import dataset_or_phantoms, prepare_datalist
from monai_idm.handlers import MontageHandler
from monai_idm.schedulers import StridedDDPMScheduler, noise_levels
from tests.bundle.workspace import TINY

DEMO = {name: TINY[name] for name in ("device", "demo#num_subjects", "demo#phantom_size")}
# one epoch instead of ten, each with a checkpoint
ONCE = {"demo#epoch_length": 2, "demo#max_epochs": 1, "demo#val_interval": 1}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Pictures take longer than everything else here, and no study uses them."""
    monkeypatch.setattr(MontageHandler, "_draw", lambda *_: None)


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
    monkeypatch.setattr(synthesis, "_DRAWS_OF", ((1, 1), (2, 2)))
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


def test_a_network_of_real_brains_is_trained_once_and_sampled_in_several_ways(tmp_path, monkeypatch):
    values = brains.values_of
    monkeypatch.setattr(brains, "values_of", lambda *arguments: {**values(*arguments), **SMALLEST})
    monkeypatch.setattr(brains, "_SAMPLERS", {"Heun": ("StridedHeunScheduler", "karras", (2, 3))})
    monkeypatch.setattr(brains, "_NUM_SAMPLES", 4)
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 5, DEMO["demo#phantom_size"], 0)
    study = partial(brains.generated, "flow, shifted", dataset_dir=folder, work=str(tmp_path / "work"))
    found = study(steps=4, side=8)
    assert found["reconstruction"]["gaussian_blur_psnr_brain"] > 5
    assert found["Heun, 2 steps"] != found["Heun, 3 steps"]
    assert found["Heun, 2 steps"]["sd_of_halves"]["histogram_distance"] > 0
    assert "PHANTOM" not in json.dumps(found)  # no case is named
    monkeypatch.setattr(runs, "train", None)  # what is in the folder is not made again
    assert study(steps=4, side=8) == found


def tissues_by_intensity(volume):
    return 1 + (volume[0].clamp(0, 0.999) * 6).long()


def test_a_task_is_trained_on_real_brains_once_and_evaluated_in_its_region(tmp_path, monkeypatch):
    values = brain_tasks.training_values
    monkeypatch.setattr(brain_tasks, "training_values", lambda *arguments: {**values(*arguments), **SMALLEST})
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 5, DEMO["demo#phantom_size"], 0)
    arguments = {"steps": 2, "side": 16, "dataset_dir": str(folder), "work": str(tmp_path / "work")}
    found = brain_tasks.STUDIES["brain_tasks"]["inpainting"](**arguments)
    assert {"draw", "ensemble", "harmonic", "mirrored"} == found["summary"]["hole"].keys()
    assert found["parameters"] > 0
    monkeypatch.setattr(runs, "train", None)  # what is in the folder is not made again
    assert brain_tasks.STUDIES["brain_tasks"]["inpainting"](**arguments) == found


def test_switches_are_compared_with_the_same_batches(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    values = switches.training_values
    monkeypatch.setattr(switches, "training_values", lambda *arguments: {**values(*arguments), **SMALLEST})
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 5, DEMO["demo#phantom_size"], 0)
    arguments = {"steps": 2, "side": 16, "dataset_dir": str(folder), "work": str(tmp_path / "work")}
    study = switches.STUDIES["switches"]
    names = ("AdamW, float32, seed 0", "AdamW, float32, seed 1", "all of them, seed 0")
    plain, other, least = (study[name](**arguments)["losses"][0] for name in names)
    assert least == pytest.approx(plain, rel=1e-3)
    assert least != plain
    assert other != pytest.approx(plain, rel=1e-3)


def test_generated_brains_are_measured_at_the_ages_asked_for(tmp_path, monkeypatch):
    values = brains.values_of
    monkeypatch.setattr(brains, "values_of", lambda *arguments: {**values(*arguments), **SMALLEST})
    monkeypatch.setattr(brains, "_SAMPLERS", {})
    monkeypatch.setattr(brains, "_OTHER_SAMPLERS", {})
    monkeypatch.setattr(anatomy, "_NUM_SAMPLES", 4)
    monkeypatch.setattr(anatomy, "_STEPS", 2)
    monkeypatch.setattr(tissues, "segmenter", lambda *_: (None, {}))
    monkeypatch.setattr(tissues, "segment", lambda _, volume: tissues_by_intensity(volume))
    monkeypatch.setattr(tissues, "features", lambda _, volume: volume.flatten())
    folder = Path(dataset_or_phantoms(None, tmp_path / "phantoms", 6, DEMO["demo#phantom_size"], 0))
    cases = sorted(path.name for path in folder.iterdir() if path.is_dir())
    rows = [f"{case},{'' if i == 3 else 20 + i},{'FM'[i % 2]}" for i, case in enumerate(cases)]
    (folder / "participants.csv").write_text("\n".join(["subject,Age,Sex", *rows]))
    arguments = {"steps": 2, "side": 16, "dataset_dir": str(folder), "work": str(tmp_path / "work")}
    study = anatomy.STUDIES["anatomy"]["guidance 2"]
    with pytest.raises(FileNotFoundError, match="with the study brains and the same --work"):
        study(**arguments)
    brains.STUDIES["brains"][brains.AGED](**arguments)
    found = study(**arguments)
    real = anatomy.STUDIES["anatomy"]["real"](**arguments)
    assert (found["age"]["n"], real["age"]["n"]) == (4, 5)  # the age of one case is unknown
    assert study(**arguments)["age"]["n"] == 4  # though its folder holds these samples already
    assert found["regions"].keys() == {"ventricles", "cerebellum", "white matter", "grey matter"}
    assert len([*(tmp_path / "work").rglob("guidance_2_seed_0/*.nii.gz")]) == 4
    assert len([*(tmp_path / "work").rglob("guidance_2_seed_0.png")]) == 1
    # three values in turn by seed: the sample of seed 1000 is asked for at the second age
    monkeypatch.setattr(anatomy, "_NUM_SAMPLES", 3)
    monkeypatch.setattr(anatomy, "regression", lambda ages, _: ages)
    assert anatomy.STUDIES["anatomy"]["guidance 1, other noise"](**arguments)["age"] == [50, 80, 20]
    went = course.STUDIES["course"][brains.AGED](**arguments)
    assert went["knobs"]["prediction_type"] == "flow"
    assert [step for step, _ in went["loss"]] == [1, 2]
    assert [epoch for epoch, _ in went["psnr_brain"]] == [1]


def test_the_share_of_ventricles_is_regressed_on_age():
    labels = []
    for age in range(20, 80, 10):  # the ventricles fill age / 10 % of the brain; fluid around it does not count
        label = torch.full((10, 10, 10), 4)
        label.view(-1)[:age] = 2
        labels.append(torch.cat([label, torch.ones(2, 10, 10, dtype=torch.long)]))
    found = anatomy.regression(range(20, 80, 10), labels)
    assert found["correlation"] == pytest.approx(1)
    assert found["slope"] == pytest.approx(1)  # percent per decade
    assert found["slope_ci95"] == pytest.approx([1, 1])


def with_tissues(folder, number=4):
    """Phantoms with a label map of two of DLMUSE's numbers beside each image."""
    folder = Path(dataset_or_phantoms(None, folder, number, (32, 32, 24), 0))
    for file in folder.rglob("*_t1.nii.gz"):
        image = nib.load(file)
        values = image.get_fdata()
        numbers = np.where(values > np.median(values[values != 0]), 81, 100) * (values != 0)
        label = nib.Nifti1Image(numbers.astype(np.int16), image.affine)
        nib.save(label, str(file).replace("_t1.", "_dlmuse."))
    return folder


def test_the_labels_of_drawn_brains_are_segmented_back(tmp_path, monkeypatch):
    values = brain_tasks.training_values
    monkeypatch.setattr(brain_tasks, "training_values", lambda *arguments: {**values(*arguments), **SMALLEST})
    monkeypatch.setattr(tissues, "STEPS", 100)
    folder = with_tissues(tmp_path / "phantoms")
    arguments = {"steps": 2, "side": 16, "dataset_dir": str(folder), "work": str(tmp_path / "work")}
    found = brain_tasks.STUDIES["brain_tasks"]["semantic"](**arguments)
    assert {"draw", "ensemble", "lookup"} <= found["summary"]["brain"].keys()
    # a network that was trained for two steps draws noise
    assert found["dice"]["drawn"]["white matter"] < found["dice"]["real"]["white matter"]
    with_regression = brain_tasks.STUDIES["brain_tasks"]["semantic, regression"](**arguments)
    assert with_regression["summary"] != found["summary"]


def test_a_network_learns_the_tissues_beside_the_images_and_is_kept(tmp_path):
    folder = with_tissues(tmp_path / "phantoms")
    datalist = prepare_datalist(folder, tmp_path / "datalist.json", ["t1"])
    network, dice = tissues.segmenter(datalist, 16, 100, tmp_path / "tissues.pt")
    assert min(dice["white matter"], dice["grey matter"]) > 0.4
    again, kept = tissues.segmenter(datalist, 16, 10**9, tmp_path / "tissues.pt")
    assert kept == pytest.approx(dice, nan_ok=True)
    volume = torch.rand(1, 16, 16, 16)
    assert torch.equal(tissues.features(network, volume), tissues.features(again, volume))


@pytest.mark.parametrize("prediction_type", ["flow", "v_prediction"])
@pytest.mark.parametrize("noise_shift", [1.0, 2.0])
def test_reconstructions_start_from_the_same_noise(prediction_type, noise_shift):
    options = {"prediction_type": prediction_type, "noise_shift": noise_shift}
    alpha, sigma = noise_levels(StridedDDPMScheduler(2000, "cosine", **options), quality.timestep_of(options, 250))
    assert sigma / alpha == pytest.approx(0.2107, abs=0.001)


@pytest.mark.parametrize("arguments", [["real"], ["quality", "--dataset_dir", "/data"]])
def test_only_the_study_of_real_cases_takes_a_folder_and_it_needs_one(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["studies", *arguments])
    with pytest.raises(SystemExit):
        command.main()
    assert (
        "the studies real and brains, anatomy, course, brain_tasks, real_or_generated, switches need --dataset_dir"
        in capsys.readouterr().err
    )


def test_a_study_is_written_down_variant_by_variant(tmp_path, monkeypatch, capsys):
    file = tmp_path / "study.json"
    variants = {"a": lambda **sizes: {"dice": 0.5, **sizes}, "b": lambda **sizes: 1 / 0}
    monkeypatch.setitem(command.STUDIES, "segmentation", variants)
    arguments = ["studies", "segmentation", "--steps", "3", "--side", "8", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ZeroDivisionError):
        command.main()
    written = json.loads(file.read_text())
    assert written["results"] == {"a": {"dice": 0.5, "steps": 3, "side": 8}}
    assert written["versions"]
    assert "a {" in capsys.readouterr().out
    # the same command continues the study, another one starts from the beginning
    monkeypatch.setitem(command.STUDIES, "segmentation", {"a": lambda **sizes: 1 / 0, "b": lambda **sizes: {"dice": 1}})
    command.main()
    assert json.loads(file.read_text())["results"] == {**written["results"], "b": {"dice": 1}}
    monkeypatch.setattr(sys, "argv", [*arguments, "--steps", "4"])
    with pytest.raises(ZeroDivisionError):
        command.main()


def test_sampling_is_judged_by_num_inference_steps_and_draws(monkeypatch):
    asked = []
    monkeypatch.setattr(segmentation, "train", lambda *values: None)
    monkeypatch.setattr(segmentation, "_evaluate", lambda values: asked.append(values) or {"dice": 0.5})
    found = sample(10, 16)
    assert {"DDIM, 1000 passes", "Heun, 9 passes", "10 draws"} <= found.keys()
    assert len(asked) == len(found)


def test_a_training_that_is_killed_ends_where_an_undisturbed_one_does():
    found = kills.killed(steps=12, side=8, kills=2, **{"demo#val_interval": 4})
    assert found["kills"] == 2
    assert found["half_written"] >= 1
    assert found["compared"] > 100
    assert found["different"] == 0


def test_the_comparison_sees_a_difference():
    one = dict(kills._leaves("", {"a": {"w": torch.ones(3)}, "b": [1, 2.0]}))
    other = dict(kills._leaves("", {"a": {"w": torch.ones(3) + 1e-6}, "b": [1, 3.0]}))
    assert [kills._equal(one[name], other[name]) for name in one] == [False, True, False]
    assert not kills._equal(torch.ones(1), None)


def test_a_long_training_is_watched(monkeypatch):
    monkeypatch.setattr(soak, "_EVERY", 4)
    found = soak.soaked(steps=20, side=8)
    assert abs(found["mb_per_10000_steps"]) < 1e5
    assert len(found["mb"]) == len(found["errors"]) == len(found["losses"]) == 5
    assert min(found["mb"]) > 100
    assert 0 < found["largest_error"] < 1e-4
    assert min(found["losses"]) > 0


def test_real_and_generated_brains_are_told_apart(tmp_path, monkeypatch):
    values = brains.values_of
    monkeypatch.setattr(brains, "values_of", lambda *arguments: {**values(*arguments), **SMALLEST})
    monkeypatch.setattr(real_or_generated, "_STEPS", 2)
    monkeypatch.setattr(real_or_generated, "_TIMESTEPS", (100, 500))
    monkeypatch.setattr(real_or_generated, "_FOLDS", 2)
    folder = Path(dataset_or_phantoms(None, tmp_path / "phantoms", 7, DEMO["demo#phantom_size"], 0))
    cases = sorted(path.name for path in folder.iterdir() if path.is_dir())
    rows = [f"{case},{20 + i},{'FM'[i % 2]}" for i, case in enumerate(cases)]
    (folder / "participants.csv").write_text("\n".join(["subject,Age,Sex", *rows]))
    (study,) = real_or_generated.STUDIES["real_or_generated"].values()
    found = study(steps=2, side=16, dataset_dir=str(folder), work=str(tmp_path / "work"))
    assert found["brains"] == 2
    assert len([*(tmp_path / "work").rglob("*.nii.gz")]) == 2
    assert {"errors of one pass", "errors of the inverse", "histogram", "power spectrum"} <= found.keys()
    assert all(0 <= of["auc"] <= 1 for of in found.values() if isinstance(of, dict) and "auc" in of)


def test_the_area_under_the_curve_is_that_of_brains_not_fitted_to():
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(30, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    units = torch.logspace(-3, 3, 20, dtype=torch.float64)  # features of all sizes
    chance = real_or_generated.auc(real, generated)
    assert chance["ci95"][0] < 0.5 < chance["ci95"][1]  # though 20 features tell the fitted ones apart
    assert chance["auc"] == pytest.approx(real_or_generated.auc(real * units, generated * units)["auc"])
    generated[:, 3] += 10
    assert real_or_generated.auc(real, generated)["auc"] == 1
    generated[:, 3] -= 9
    some = real_or_generated.auc(real, generated)
    assert 0.5 < some["ci95"][0] < some["auc"] < some["ci95"][1] < 1
