"""The bundle's configs for synthesis of missing contrasts run for real, at tiny size on phantoms."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_idm.checkpoints import read_record
from tests.bundle.workspace import TINY, chain, train, workflow

ANY = {"modalities": ["t1", "t2", "flair"], "known": None}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthesis")
    return folder, train(folder, ["train", "synthesis"], **ANY)


def test_any_contrasts_are_made_of_any(trained):
    folder, run = trained
    network = run.parser.get_parsed_content("network")
    assert (network.in_channels, network.out_channels) == (3, 3)
    assert network.embedding.classes.weight.shape[0] == 8
    seen = {tuple(case["image"][3:, 0, 0, 0].tolist()) for _ in range(20) for case in run.train_dataset}
    assert len(seen) == 6
    assert read_record(folder / "models" / "model.pt")["convention"]["known"] is None
    table = json.loads((folder / "output" / "validation.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "lookup", "mean_image"}
    assert {row["modality"] for row in table["cases"]} == {"flair"}
    assert (folder / "output" / "montage_epoch0002.png").stat().st_size > 10_000


def test_draws_are_evaluated_and_written_on_the_grid_and_in_the_intensities_of_the_input(trained):
    folder, _ = trained
    values = {**TINY, **ANY, "ckpt_dir": str(folder / "models"), "num_draws": 2, "validation_known": ["t2"]}
    run = workflow(["train", "synthesis", "evaluate_synthesis"], "train", folder, **values)
    run.initialize()
    run.run()
    evaluated = folder / "output" / "evaluation"
    table = json.loads((evaluated / "synthesis.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "ensemble", "lookup", "mean_image"}
    assert {row["modality"] for row in table["cases"]} == {"t1", "flair"}
    (subject,) = {row["subject"] for row in table["cases"]}
    written = {file.name for file in evaluated.glob("*.nii.gz")}
    assert written == {f"{subject}_t1_synthetic.nii.gz", f"{subject}_flair_synthetic.nii.gz"}
    for modality in ("t1", "flair"):
        source = nib.load(folder / "output" / "phantoms" / subject / f"{subject}_{modality}.nii.gz")
        image = nib.load(evaluated / f"{subject}_{modality}_synthetic.nii.gz")
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
        window = np.percentile(source.get_fdata()[source.get_fdata() != 0], 99.5)
        assert 0.1 * window < image.get_fdata().max() <= window * (1 + 1e-5)
    assert (evaluated / f"{subject}.png").stat().st_size > 10_000


def test_the_inference_config_needs_the_known_contrasts_only(trained, tmp_path):
    folder, _ = trained
    cases = tmp_path / "cases"
    shutil.copytree(folder / "output" / "phantoms" / "PHANTOM_000", cases / "PHANTOM_000")
    for other in ("t1", "t1ce", "seg"):
        (cases / "PHANTOM_000" / f"PHANTOM_000_{other}.nii.gz").unlink()
    values = {
        "dataset_dir": str(cases),
        "ckpt_file": str(folder / "models" / "model.pt"),
        "modalities": ANY["modalities"],
        "known": ["flair", "t2"],  # in another order than in training
        "spatial_size": [16, 16, 16],
        "num_inference_steps": 3,
        "num_draws": 2,
        "device": TINY["device"],
    }
    run = workflow("inference_synthesis", "infer", tmp_path, **values)
    run.initialize()
    run.run()
    written = {f.name: nib.load(f) for f in (tmp_path / "output").glob("*.nii.gz")}
    settings = json.loads((tmp_path / "output" / "PHANTOM_000.json").read_text())
    assert (settings["settings"]["known"], settings["settings"]["num_draws"]) == (["flair", "t2"], 2)
    assert settings["checkpoint"]["data"]["source"] == "phantom"
    assert set(written) == {"PHANTOM_000_t1_synthetic.nii.gz", "PHANTOM_000_t1_variance.nii.gz"}
    source = nib.load(cases / "PHANTOM_000" / "PHANTOM_000_t2.nii.gz")
    for image in written.values():
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
    made = written["PHANTOM_000_t1_synthetic.nii.gz"].get_fdata()
    assert 0 <= made.min() < made.max() <= 1
    assert 0 <= written["PHANTOM_000_t1_variance.nii.gz"].get_fdata().max() <= 0.25
    # as MONAI Label calls it: no subject, no evaluator
    data = run.preprocessing({"image": [f"{cases}/PHANTOM_000/PHANTOM_000_{m}.nii.gz" for m in values["known"]]})
    volume = run.inferer(data["image"][None], run.parser.get_parsed_content("network"))
    pred = run.postprocessing({**data, "pred": volume[0]})["pred"]
    np.testing.assert_allclose(pred[0].numpy(), made, atol=1e-5)
    refused = workflow("inference_synthesis", "infer", tmp_path, **{**values, "known": ["flair", "pd"]})
    refused.initialize()
    with pytest.raises(Exception, match="Failed to") as error:
        refused.run()
    assert "pd" in chain(error.value)


def test_one_contrast_of_another_is_the_default(tmp_path):
    run = train(tmp_path, ["train", "synthesis"])
    (mask,) = {tuple(case["image"][2:, 0, 0, 0].tolist()) for case in run.train_dataset}
    assert mask == (1, 0)
    table = json.loads((tmp_path / "output" / "validation.json").read_text())
    assert {row["modality"] for row in table["cases"]} == {"t2"}
    weights = {"ckpt_file": str(tmp_path / "models" / "model.pt"), "device": TINY["device"]}
    refused = workflow("inference_synthesis", "infer", tmp_path, known=["t2"], **weights)
    with pytest.raises(Exception, match="Failed to evaluate") as error:
        refused.initialize()
    assert "known: ['t1'] in the checkpoint, ['t2'] here" in chain(error.value)
    with pytest.raises(Exception, match="Failed to instantiate") as error:
        train(tmp_path / "b", ["train", "synthesis"], known=["t1", "t2"])
    assert "something must be left to synthesise" in chain(error.value)
