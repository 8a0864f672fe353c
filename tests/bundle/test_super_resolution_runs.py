"""The bundle's configs for super-resolution run for real, at tiny size on phantoms."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from monai_idm.data import write_phantoms
from tests.bundle.workspace import TINY, chain, train, workflow

KNOBS = {"thickness_mm": 24.0, "regression": True}  # 16 voxels a side are 12 mm wide


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thick")
    return folder, train(
        folder, ["train", "super_resolution"], **{**KNOBS, "demo#max_epochs": 1, "demo#val_interval": 1}
    )


def test_thin_slices_are_evaluated_beside_interpolated_ones(trained):
    folder, run = trained
    network = run.parser.get_parsed_content("network")
    assert (network.in_channels, network.out_channels) == (2, 1)
    values = {**TINY, **KNOBS, "ckpt_dir": str(folder / "models")}
    evaluation = workflow(["train", "super_resolution", "evaluate_super_resolution"], "train", folder, **values)
    evaluation.initialize()
    evaluation.run()
    evaluated = folder / "output" / "evaluation"
    table = json.loads((evaluated / "super_resolution.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "interpolated"}
    assert len([*evaluated.glob("*_t1_thin.nii.gz")]) == 1
    assert len([*evaluated.glob("*.png")]) == 1


def test_thick_slices_of_a_file_become_thin_in_the_same_field_of_view(trained, tmp_path):
    folder, _ = trained
    write_phantoms(tmp_path / "cases", 1, (40, 40, 16), 3)
    values = {"dataset_dir": str(tmp_path / "cases"), "ckpt_file": str(folder / "models" / "model.pt")}
    run = workflow("inference_super_resolution", "infer", tmp_path, device=TINY["device"], **values)
    run.initialize()
    run.run()
    thick = nib.load(tmp_path / "cases" / "PHANTOM_000" / "PHANTOM_000_t1.nii.gz")
    thin = nib.load(tmp_path / "output" / "PHANTOM_000_t1_thin.nii.gz")
    assert thin.shape == (40, 40, 32)
    ends = [np.array([[-0.5, n - 0.5] for n in image.shape]) for image in (thick, thin)]
    corners = [
        image.affine[:3, :3] @ end + image.affine[:3, 3:] for image, end in zip((thick, thin), ends, strict=True)
    ]
    np.testing.assert_allclose(*corners, atol=1e-3)
    assert 0.2 < thin.get_fdata().max() / thick.get_fdata().max() <= 1
    # as MONAI Label calls it: no subject, no evaluator, and the grid of "image", if it is there, becomes that of pred
    item = run.preprocessing({"image": thick.get_filename()})
    volume = run.inferer(item["image"][None], run.parser.get_parsed_content("network"))
    item = run.postprocessing({**item, "pred": volume[0]})
    assert "image" not in item
    np.testing.assert_allclose(item["pred"].affine, thin.affine, atol=1e-5)
    np.testing.assert_allclose(item["pred"][0].numpy(), thin.get_fdata(), atol=1e-3)


def test_slices_of_another_orientation_are_refused(trained, tmp_path):
    folder, _ = trained
    write_phantoms(tmp_path / "cases", 1, (40, 16, 40), 3)
    values = {"dataset_dir": str(tmp_path / "cases"), "ckpt_file": str(folder / "models" / "model.pt")}
    run = workflow("inference_super_resolution", "infer", tmp_path, device=TINY["device"], **values)
    run.initialize()
    with pytest.raises(Exception, match="Failed") as error:
        run.run()
    assert "thickest in coronal slices" in chain(error.value)
