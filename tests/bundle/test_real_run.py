"""The bundle runs on two real cases, at tiny size, and writes volumes in the space of its input."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from monai_idm.checkpoints import read_record
from tests.bundle.workspace import TINY, train, workflow

SHORT = {"spatial_size": [24, 32, 24], "max_epochs": 1, "epoch_length": 2, "val_interval": 1, "batch_size": 1}


@pytest.mark.sample
def test_training_evaluation_sampling_and_comparison_of_samples_on_real_volumes(brats_sample, tmp_path):
    knobs = {**SHORT, "dataset_dir": str(brats_sample)}
    train(tmp_path, **knobs)
    model = tmp_path / "models" / "model.pt"
    assert read_record(model)["data"]["source"] == str(brats_sample)

    values = {**TINY, **knobs, "ckpt_dir": str(tmp_path / "models")}
    run = workflow(["train", "evaluate"], "train", tmp_path, **values)
    run.initialize()
    run.run()
    written = sorted((tmp_path / "output" / "evaluation").glob("*.nii.gz"))
    assert len(written) == 2
    for file in written:
        name = file.name.removesuffix("_reconstruction.nii.gz")
        source = nib.load(brats_sample / name.rpartition("_")[0] / f"{name}.nii.gz")
        image = nib.load(file)
        assert image.shape == source.shape == (240, 240, 155)
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
        voxels, brain = image.get_fdata(), source.get_fdata()[source.get_fdata() != 0]
        low, high = min(0, np.percentile(brain, 0.5)), np.percentile(brain, 99.5)
        slack = 1e-3 * (high - low)
        assert low - slack <= voxels.min() < voxels.max() <= high + slack

    run = workflow(["train", "evaluate_generation"], "train", tmp_path, **values, num_samples=2)
    run.initialize()
    run.run()
    table = json.loads((tmp_path / "output" / "generation" / "generation.json").read_text())
    assert (table["summary"]["cases"], table["summary"]["real"], table["summary"]["training"]) == (2, 1, 1)

    run = workflow(
        "inference",
        "infer",
        tmp_path,
        ckpt_file=str(model),
        num_samples=1,
        num_inference_steps=2,
        device=TINY["device"],
    )
    run.initialize()
    run.run()
    sample = nib.load(tmp_path / "output" / "sample_000_t1.nii.gz")
    assert sample.shape == (24, 32, 24)
    assert sample.header.get_zooms()[0] == pytest.approx(5.7, rel=0.1)  # the brain's longest side over 32, or less


@pytest.mark.sample
def test_segmentation_of_real_volumes(brats_sample, tmp_path):
    knobs = {**SHORT, "dataset_dir": str(brats_sample), "regions": ["core", "whole", "enhancing"]}
    knobs["modalities"] = ["t1ce", "flair"]
    train(tmp_path, ["train", "segmentation"], **knobs)
    values = {**TINY, **knobs, "ckpt_dir": str(tmp_path / "models"), "num_draws": 2}
    run = workflow(["train", "segmentation", "evaluate_segmentation"], "train", tmp_path, **values)
    run.initialize()
    run.run()
    (written,) = sorted((tmp_path / "output" / "evaluation").glob("*_seg.nii.gz"))
    source = nib.load(brats_sample / written.name.removesuffix("_seg.nii.gz") / written.name)
    label = nib.load(written)
    assert label.shape == source.shape == (240, 240, 155)
    np.testing.assert_allclose(label.affine, source.affine, atol=1e-6)
    assert set(np.unique(label.get_fdata())) <= set(np.unique(source.get_fdata()))


@pytest.mark.sample
def test_synthesis_of_real_contrasts(brats_sample, tmp_path):
    knobs = {**SHORT, "dataset_dir": str(brats_sample)}
    values = {**TINY, **knobs, "ckpt_dir": str(tmp_path / "models")}
    train(tmp_path, ["train", "synthesis"], **knobs)
    run = workflow(["train", "synthesis", "evaluate_synthesis"], "train", tmp_path, **{**values, "num_draws": 2})
    run.initialize()
    run.run()
    table = json.loads((tmp_path / "output" / "evaluation" / "synthesis.json").read_text())
    lookup = table["summary"]["image"]["t2"]["brain"]["lookup"]
    assert 8 < lookup["psnr"]["mean"] < 30
    (written,) = (tmp_path / "output" / "evaluation").glob("*_t2_synthetic.nii.gz")
    name = written.name.removesuffix("_synthetic.nii.gz")
    source, image = nib.load(brats_sample / name.removesuffix("_t2") / f"{name}.nii.gz"), nib.load(written)
    assert image.shape == source.shape == (240, 240, 155)
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
