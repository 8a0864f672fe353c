"""The bundle's configs for brains from label maps run for real, at tiny size on phantoms."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from monai_idm.data import write_phantoms
from tests.bundle.workspace import TINY, chain, train, workflow

OURS = "anatomy"  # the name of the label files, which are not BraTS's
TABLE = "Number,Name\n10,dark\n20,bright\n30,bright\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms with label maps of three numbers that cover the brain, and a table of two names."""
    folder = tmp_path_factory.mktemp("labelled")
    write_phantoms(folder / "cases", 5, TINY["demo#phantom_size"], 0)
    for case in (folder / "cases").glob("PHANTOM_*"):
        (case / f"{case.name}_seg.nii.gz").unlink(missing_ok=True)
        scan = nib.load(case / f"{case.name}_t1.nii.gz")
        voxels = scan.get_fdata()
        limits = np.percentile(voxels[voxels != 0], [40, 70])
        numbers = np.where(voxels == 0, 0, 10 + 10 * np.digitize(voxels, limits))
        nib.save(nib.Nifti1Image(numbers.astype(np.int16), scan.affine), case / f"{case.name}_{OURS}.nii.gz")
    (folder / "table.csv").write_text(TABLE)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("semantic")
    values = {"dataset_dir": str(data / "cases"), "labels": str(data / "table.csv"), "label_name": OURS}
    values |= {"spatial_size": [16, 16, 16], "batch_size": 2, "epoch_length": 2, "max_epochs": 1, "val_interval": 1}
    return folder, train(folder, ["train", "semantic"], **values), values


def test_regions_of_the_table_are_the_condition(trained):
    folder, run, _ = trained
    network = run.parser.get_parsed_content("network")
    assert (network.in_channels, network.out_channels) == (3, 1)
    case = run.train_dataset[0]
    assert case["label"].shape == (2, 16, 16, 16)
    assert 0 <= case["label"].min() < case["label"].max() <= 1 + 1e-6
    table = json.loads((folder / "output" / "validation.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "lookup"}
    assert (folder / "output" / "montage_epoch0001.png").stat().st_size > 5_000


def test_drawn_brains_are_evaluated_and_written_on_the_grid_of_the_label_map(trained):
    folder, _, values = trained
    values = {**TINY, **values, "ckpt_dir": str(folder / "models"), "num_draws": 2}
    run = workflow(["train", "semantic", "evaluate_semantic"], "train", folder, **values)
    run.initialize()
    run.run()
    evaluated = folder / "output" / "evaluation"
    table = json.loads((evaluated / "semantic.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "ensemble", "lookup"}
    (subject,) = {row["subject"] for row in table["cases"]}
    assert {file.name for file in evaluated.glob("*.nii.gz")} == {f"{subject}_t1_synthetic.nii.gz"}


@pytest.mark.parametrize("brain", ["labels", "image"])
def test_inference_needs_label_maps_alone_if_they_cover_the_brain(trained, data, tmp_path, brain):
    folder, _, _ = trained
    case = tmp_path / "cases" / "PHANTOM_000"
    case.mkdir(parents=True)
    for name in (OURS, "t1")[: 1 + (brain == "image")]:
        file = f"PHANTOM_000_{name}.nii.gz"
        (case / file).write_bytes((data / "cases" / "PHANTOM_000" / file).read_bytes())
    values = {"dataset_dir": str(case.parent), "ckpt_file": str(folder / "models" / "model.pt"), "label_name": OURS}
    values |= {"brain": brain, "num_inference_steps": 2, "device": TINY["device"]}
    run = workflow("inference_semantic", "infer", tmp_path, **values)
    run.initialize()
    run.run()
    drawn = nib.load(tmp_path / "output" / "PHANTOM_000_t1_synthetic.nii.gz")
    label = nib.load(case / f"PHANTOM_000_{OURS}.nii.gz")
    assert drawn.shape == label.shape
    np.testing.assert_allclose(drawn.affine, label.affine, atol=1e-5)
    assert 0 <= drawn.get_fdata().min() < drawn.get_fdata().max() <= 1
    if brain == "labels":  # as MONAI Label calls it: the label map is the image
        item = run.preprocessing({"image": str(case / f"PHANTOM_000_{OURS}.nii.gz")})
        volume = run.inferer(item["image"][None], run.parser.get_parsed_content("network"))
        pred = run.postprocessing({**item, "pred": volume[0]})["pred"]
        np.testing.assert_allclose(pred[0].numpy(), drawn.get_fdata(), atol=1e-5)


def test_a_number_outside_the_table_is_refused(trained, data, tmp_path):
    folder, _, _ = trained
    case = tmp_path / "cases" / "PHANTOM_000"
    case.mkdir(parents=True)
    label = nib.load(data / "cases" / "PHANTOM_000" / f"PHANTOM_000_{OURS}.nii.gz")
    strange = np.where(label.get_fdata() == 20, 21, label.get_fdata())
    nib.save(nib.Nifti1Image(strange.astype(np.int16), label.affine), case / f"PHANTOM_000_{OURS}.nii.gz")
    values = {"dataset_dir": str(case.parent), "ckpt_file": str(folder / "models" / "model.pt"), "label_name": OURS}
    run = workflow("inference_semantic", "infer", tmp_path, brain="labels", device=TINY["device"], **values)
    run.initialize()
    with pytest.raises(Exception, match="Failed") as error:
        run.run()
    assert "PHANTOM_000 holds 21, which the table of labels does not name; it names dark, bright" in chain(error.value)
