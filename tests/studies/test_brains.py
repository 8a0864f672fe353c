"""The studies of real brains, at a tiny size on phantoms in folders."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from idm_bundle.studies import (
    anatomy,
    brain_tasks,
    brains,
    course,
    real_or_generated,
    runs,
    switches,
    tissues,
)
from idm_bundle.studies.configs import SMALLEST
from monai_idm.data import dataset_or_phantoms, prepare_datalist
from tests.bundle.workspace import TINY

SIZE = TINY["demo#phantom_size"]


def test_a_network_of_real_brains_is_trained_once_and_sampled_in_several_ways(tmp_path, monkeypatch):
    values = brains.values_of
    monkeypatch.setattr(brains, "values_of", lambda *arguments: {**values(*arguments), **SMALLEST})
    monkeypatch.setattr(brains, "_SAMPLERS", {"Heun": ("StridedHeunScheduler", "karras", (2, 3))})
    monkeypatch.setattr(brains, "_NUM_SAMPLES", 4)
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 5, SIZE, 0)
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
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 5, SIZE, 0)
    arguments = {"steps": 2, "side": 16, "dataset_dir": str(folder), "work": str(tmp_path / "work")}
    found = brain_tasks.STUDIES["brain_tasks"]["inpainting"](**arguments)
    assert {"draw", "ensemble", "harmonic", "mirrored"} == found["summary"]["hole"].keys()
    assert list(found["few_steps"]) == ["1", "2", "4"]
    draws = [found["few_steps"]["1"]["hole"], found["few_steps"]["4"]["hole"], found["summary"]["hole"]]
    assert "ensemble" not in draws[0]  # one draw
    assert len({of["draw"]["psnr"]["mean"] for of in draws}) == 3
    assert len({of["harmonic"]["psnr"]["mean"] for of in draws}) == 1
    assert found["parameters"] > 0
    monkeypatch.setattr(runs, "train", None)  # what is in the folder is not made again
    assert brain_tasks.STUDIES["brain_tasks"]["inpainting"](**arguments) == found


def test_switches_are_compared_with_the_same_batches(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    values = switches.training_values
    monkeypatch.setattr(switches, "training_values", lambda *arguments: {**values(*arguments), **SMALLEST})
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 5, SIZE, 0)
    arguments = {"steps": 2, "side": 16, "dataset_dir": str(folder), "work": str(tmp_path / "work")}
    study = switches.STUDIES["switches"]
    names = ("AdamW, float32, seed 0", "AdamW, float32, seed 1", "all of them, seed 0")
    found = [study[name](**arguments) for name in names]
    plain, other, least = (of["losses"][0] for of in found)
    assert least == pytest.approx(plain, rel=1e-3)
    assert least != plain
    assert other != pytest.approx(plain, rel=1e-3)
    assert {type(of[name]) for of in found for name in ("loss", "validation_loss", "little_noise")} == {float}
    monkeypatch.setattr(runs, "train", None)  # what is in the folder is not made again
    assert study[names[0]](**arguments) == found[0]


def test_the_loss_of_a_resumed_training_is_that_of_its_last_tenth(tmp_path):
    folder = dataset_or_phantoms(None, tmp_path / "phantoms", 5, SIZE, 0)
    values = {**brains.training_values(str(folder), tmp_path, 20, 16), **SMALLEST, "epoch_length": 5}
    found = [runs.train({**values, "max_epochs": epochs, "resume": True})[1] for epochs in (2, 4)]
    assert [len(of["losses"]) for of in found] == [10, 10]
    assert found[1]["loss"] == pytest.approx(sum(found[1]["losses"][-2:]) / 2)


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
    folder = Path(dataset_or_phantoms(None, tmp_path / "phantoms", 6, SIZE, 0))
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
    assert "few_steps" not in with_regression  # it knows one pass


def test_a_network_learns_the_tissues_beside_the_images_and_is_kept(tmp_path):
    folder = with_tissues(tmp_path / "phantoms")
    datalist = prepare_datalist(folder, tmp_path / "datalist.json", ["t1"])
    network, dice = tissues.segmenter(datalist, 16, 100, tmp_path / "tissues.pt")
    assert min(dice["white matter"], dice["grey matter"]) > 0.4
    again, kept = tissues.segmenter(datalist, 16, 10**9, tmp_path / "tissues.pt")
    assert kept == pytest.approx(dice, nan_ok=True)
    volume = torch.rand(1, 16, 16, 16)
    assert torch.equal(tissues.features(network, volume), tissues.features(again, volume))


def test_real_and_generated_brains_are_told_apart(tmp_path, monkeypatch):
    values = brains.values_of
    monkeypatch.setattr(brains, "values_of", lambda *arguments: {**values(*arguments), **SMALLEST})
    monkeypatch.setattr(real_or_generated, "_STEPS", 2)
    monkeypatch.setattr(real_or_generated, "_TIMESTEPS", (100, 500))
    monkeypatch.setattr(real_or_generated, "_FOLDS", 2)
    folder = Path(dataset_or_phantoms(None, tmp_path / "phantoms", 7, SIZE, 0))
    cases = sorted(path.name for path in folder.iterdir() if path.is_dir())
    rows = [f"{case},{20 + i},{'FM'[i % 2]}" for i, case in enumerate(cases)]
    (folder / "participants.csv").write_text("\n".join(["subject,Age,Sex", *rows]))
    (study,) = real_or_generated.STUDIES["real_or_generated"].values()
    found = study(steps=2, side=16, dataset_dir=str(folder), work=str(tmp_path / "work"))
    assert found["brains"] == 2
    assert len([*(tmp_path / "work").rglob("*.nii.gz")]) == 2
    assert {"errors of one pass", "errors of the inverse", "histogram", "power spectrum"} <= found.keys()
    assert all(0 <= of["auc"] <= 1 for of in found.values() if isinstance(of, dict) and "auc" in of)


def test_what_is_around_a_brain_is_not_compared():
    volume = torch.zeros(1, 12, 12, 12)
    volume[0, 2:10, 2:10, 2:10] = 0.8
    volume[0, 5, 5, 5] = 0.1  # a dark voxel inside
    noisy = volume.clone()
    noisy[0, :2] = 0.15
    noisy[0, 11, 11, 11] = 0.9
    assert torch.equal(real_or_generated.brain_alone(volume), volume)
    assert torch.equal(real_or_generated.brain_alone(noisy), volume)


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
