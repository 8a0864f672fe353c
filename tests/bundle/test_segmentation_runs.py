"""The bundle's segmentation configs run for real, at tiny size on phantoms."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_idm.checkpoints import read_record
from tests.bundle.workspace import TINY, chain, train, workflow


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmented")
    return folder, train(folder, ["train", "segmentation"], **SEGMENTATION)


SEGMENTATION = {"regions": ["core", "whole", "enhancing"], "patch_size": [8, 16, 8], "demo#num_subjects": 6}


def test_segmentation_trains_on_patches_and_segments_whole_volumes(segmented):
    folder, run = segmented
    network = run.parser.get_parsed_content("network")
    assert (network.in_channels, network.out_channels) == (3 + 4 + 3, 3)
    (batch,) = {tuple(b["image"].shape) for b in run.parser.get_parsed_content("train#dataloader")}
    assert batch == (2, 7, 8, 16, 8)
    (case,) = run.parser.get_parsed_content("validate#dataset")
    assert case["image"].shape == (7, 16, 16, 16)
    assert case["label"].shape == (3, 16, 16, 16)
    assert set(case["label"].unique().tolist()) == {0, 1}
    table = json.loads((folder / "output" / "validation.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "otsu", "best_threshold"}
    assert 0 <= run.parser.get_parsed_content("validate#evaluator").state.metrics["dice"] <= 1
    assert read_record(folder / "models" / "model.pt")["convention"]["regions"] == SEGMENTATION["regions"]
    assert (folder / "output" / "montage_epoch0002.png").stat().st_size > 10_000


def test_an_ensemble_is_evaluated_and_written_on_the_grid_of_its_input(segmented):
    folder, _ = segmented
    values = {**TINY, **SEGMENTATION, "ckpt_dir": str(folder / "models"), "num_draws": 3, "inference_patch_size": 8}
    run = workflow(["train", "segmentation", "evaluate_segmentation"], "train", folder, **values)
    run.initialize()
    run.run()
    evaluated = folder / "output" / "evaluation"
    table = json.loads((evaluated / "segmentation.json").read_text())
    subjects = {row["subject"] for row in table["cases"]}
    assert {row["method"] for row in table["cases"]} == {"draw", "ensemble", "otsu", "best_threshold"}
    assert sum(row["method"] == "draw" for row in table["cases"]) == len(subjects) * 3 * 3
    for subject in subjects:
        source = nib.load(folder / "output" / "phantoms" / subject / f"{subject}_seg.nii.gz")
        label = nib.load(evaluated / f"{subject}_seg.nii.gz")
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(label.get_fdata())) <= {0, 1, 2, 4}
        maps = {kind: nib.load(evaluated / f"{subject}_whole_{kind}.nii.gz") for kind in ("mean", "variance")}
        for image in (label, *maps.values()):
            assert image.shape == source.shape
            np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
        mean, variance = (image.get_fdata() for image in maps.values())
        assert 0 <= mean.min() < mean.max() <= 1
        assert 0 <= variance.min() < variance.max() <= 0.25
        assert (evaluated / f"{subject}.png").stat().st_size > 10_000


def test_the_inference_config_segments_without_labels(segmented, tmp_path):
    folder, _ = segmented
    cases = tmp_path / "cases"
    shutil.copytree(folder / "output" / "phantoms" / "PHANTOM_000", cases / "PHANTOM_000")
    (cases / "PHANTOM_000" / "PHANTOM_000_seg.nii.gz").unlink()
    values = {
        "dataset_dir": str(cases),
        "ckpt_file": str(folder / "models" / "model.pt"),
        "regions": SEGMENTATION["regions"],
        "spatial_size": [16, 16, 16],
        "num_inference_steps": 3,
        "num_draws": 2,
        "device": TINY["device"],
    }
    run = workflow("inference_segmentation", "infer", tmp_path, **values)
    run.initialize()
    run.run()
    names = {f"PHANTOM_000_{r}_{kind}.nii.gz" for r in SEGMENTATION["regions"] for kind in ("mean", "variance")}
    assert {f.name for f in (tmp_path / "output").iterdir()} == {"PHANTOM_000_seg.nii.gz", "PHANTOM_000.json"} | names
    source = nib.load(cases / "PHANTOM_000" / "PHANTOM_000_t1.nii.gz")
    written = nib.load(tmp_path / "output" / "PHANTOM_000_seg.nii.gz")
    assert written.shape == source.shape
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-6)
    # as MONAI Label calls it: no subject, no evaluator
    modalities = run.parser.get_parsed_content("trained")["modalities"]
    data = run.preprocessing({"image": [f"{cases}/PHANTOM_000/PHANTOM_000_{m}.nii.gz" for m in modalities]})
    labels = run.inferer(data["image"][None], run.parser.get_parsed_content("network"))
    pred = run.postprocessing({**data, "pred": labels[0]})["pred"]
    np.testing.assert_array_equal(pred[0].numpy(), written.get_fdata())


def test_the_baseline_trains_in_its_own_way(tmp_path):
    run = train(tmp_path, ["train", "segmentation", "patchddm"], patch_size=[8, 8, 16], preset="light")
    network = run.parser.get_parsed_content("network")
    assert type(network).__name__ == "PatchDiffusionUNet"
    assert network.in_channels == 8
    assert run.parser.get_parsed_content("scheduler").prediction_type == "epsilon"
    assert (tmp_path / "models" / "model.pt").is_file()


@pytest.mark.parametrize("patch_size", ["@spatial_size", [16, 24, 16]])
def test_native_volumes_are_segmented_whole_or_in_patches(patch_size, tmp_path):
    pytest.importorskip("bitsandbytes")
    size = {"spatial_size": [32, 32, 24], "patch_size": patch_size, "num_inference_steps": 2}
    # in float32: bfloat16 convolutions of few voxels are not reliable on a CPU
    precisions = {"precision": "float32", "weight_dtype": "float32", "gradient_dtype": "float32"}
    knobs = {**precisions, "preset": "light", "bookend_stride": 1, "num_workers": 0, "max_epochs": 1}
    run = train(tmp_path, ["train", "segmentation", "native"], **size, **knobs)
    assert run.parser.get_parsed_content("network").in_channels == 8
    image = run.parser.get_parsed_content("validate#dataset")[0]["image"]
    assert image.shape == (7, 32, 32, 24)
    source = nib.load(image.meta["filename_or_obj"])
    np.testing.assert_allclose(image.pixdim, source.header.get_zooms(), rtol=1e-5)
    (written,) = (tmp_path / "output").glob("montage*.png")
    assert written.stat().st_size > 10_000


def test_heuns_method_is_a_knob(segmented):
    folder, _ = segmented
    values = {**TINY, **SEGMENTATION, "ckpt_dir": str(folder / "models"), "sampler": "StridedHeunScheduler"}
    run = workflow(["train", "segmentation", "evaluate_segmentation"], "train", folder, **values)
    run.initialize()
    assert len(run.parser.get_parsed_content("few_step_scheduler").timesteps) == 2 * TINY["num_inference_steps"] - 1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"patch_size": [24, 16, 16]}, "a patch of (24, 16, 16) voxels"),
        ({"label_map": "brats2023"}, "labels [4.0] are not in the map 'brats2023'"),
        ({"modalities": ["t1", "dwi"]}, "dwi"),
        (
            {"condition#keys": ["image"]},
            "is a condition missing, such as a modality or the coordinates (AddCoordinatesd)?",
        ),
        ({"modalities": ["t1", "t2"], "network_def#in_channels": 8}, "a modality or the coordinates"),
    ],
)
def test_what_does_not_fit_a_segmentation_is_refused(knobs, message, tmp_path):
    with pytest.raises(Exception, match=r".") as error:
        train(tmp_path, ["train", "segmentation"], **knobs)
    assert message in chain(error.value)


def test_a_missing_contrast_is_named(segmented, tmp_path):
    folder, _ = segmented
    cases = tmp_path / "cases"
    shutil.copytree(folder / "output" / "phantoms", cases)
    (cases / "PHANTOM_002" / "PHANTOM_002_t1ce.nii.gz").unlink()
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        train(tmp_path, ["train", "segmentation"], dataset_dir=str(cases))
    assert "PHANTOM_002" in chain(error.value)
    assert "t1ce" in chain(error.value)
