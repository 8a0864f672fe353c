"""The bundle's configs for inpainting run for real, at tiny size on phantoms."""

from __future__ import annotations

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from tests.bundle.workspace import TINY, chain, train, workflow

TURNED = np.array([[1, -1], [0, 1], [2, 1]])  # the first two axes exchanged, one of them flipped


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inpainting")
    return folder, train(folder, ["train", "inpainting"], modalities=["t1", "t2"])


def test_holes_are_new_in_training_and_the_same_in_every_validation(trained):
    folder, run = trained
    network = run.parser.get_parsed_content("network")
    assert (network.in_channels, network.out_channels) == (5, 2)
    holes = {case["image"][2].numpy().tobytes() for _ in range(2) for case in run.train_dataset}
    assert len(holes) == 2 * len(run.train_dataset)
    validation = run.parser.get_parsed_content("validate#dataset")
    first, second = ([case["hole"].numpy().tobytes() for case in validation] for _ in range(2))
    assert first == second
    table = json.loads((folder / "output" / "validation.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "harmonic", "mirrored"}
    assert {row["region"] for row in table["cases"]} == {"hole", "whole"}
    assert (folder / "output" / "montage_epoch0002.png").stat().st_size > 10_000


def test_what_is_hidden_is_healthy_brain(trained):
    _, run = trained
    for case in run.parser.get_parsed_content("validate#dataset"):
        hole = case["hole"][0] > 0
        assert hole.any()
        assert not (hole & (case["mask"][0] < 0.5)).any()
        assert not (hole & (case["label"].amax(0) > 1e-3)).any()
        assert (case["image"][:2, hole] != case["target"][:, hole]).all()
        assert (case["image"][:2, ~hole] == case["target"][:, ~hole]).all()


def test_holes_are_filled_and_evaluated(trained):
    folder, _ = trained
    values = {**TINY, "modalities": ["t1", "t2"], "ckpt_dir": str(folder / "models"), "num_draws": 2}
    run = workflow(["train", "inpainting", "evaluate_inpainting"], "train", folder, **values)
    run.initialize()
    run.run()
    evaluated = folder / "output" / "evaluation"
    table = json.loads((evaluated / "inpainting.json").read_text())
    assert {row["method"] for row in table["cases"]} == {"draw", "ensemble", "harmonic", "mirrored"}
    (subject,) = {row["subject"] for row in table["cases"]}
    written = {file.name for file in evaluated.glob("*.nii.gz")}
    assert written == {f"{subject}_{name}.nii.gz" for name in ("t1_inpainted", "t2_inpainted", "hole")}
    hole = nib.load(evaluated / f"{subject}_hole.nii.gz").get_fdata()
    assert {*np.unique(hole)} == {0.0, 1.0}
    before = nib.load(folder / "output" / "phantoms" / subject / f"{subject}_t1.nii.gz").get_fdata()
    after = nib.load(evaluated / f"{subject}_t1_inpainted.nii.gz").get_fdata()
    np.testing.assert_array_equal(after[hole == 0], before[hole == 0])
    assert (after[hole == 1] != before[hole == 1]).mean() > 0.5


def cases(folder, tmp_path):
    shutil.copytree(folder / "output" / "phantoms" / "PHANTOM_000", tmp_path / "cases" / "PHANTOM_000")
    values = {
        "dataset_dir": str(tmp_path / "cases"),
        "ckpt_file": str(folder / "models" / "model.pt"),
        "num_inference_steps": 2,
        "device": TINY["device"],
    }
    return tmp_path / "cases" / "PHANTOM_000", values


def test_around_the_hole_a_written_file_is_the_one_that_was_read(trained, tmp_path):
    folder, _ = trained
    case, values = cases(folder, tmp_path)
    # integers with a scaling, in another order of voxels than the label, and an extension in the header
    for name in ("t1", "t2"):
        scan = nib.load(case / f"PHANTOM_000_{name}.nii.gz")
        stored = np.round(scan.get_fdata() / scan.get_fdata().max() * 30000).astype(np.int16)
        image = nib.Nifti1Image(stored, scan.affine).as_reoriented(TURNED)
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"from the scanner"))
        nib.save(image, case / f"PHANTOM_000_{name}.nii.gz")
    file = case / "PHANTOM_000_t1.nii.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[112:120] = np.array([0.5, 3.0], "<f4").tobytes()  # scl_slope, scl_inter
    file.write_bytes(gzip.compress(bytes(content)))
    run = workflow("inference_inpainting", "infer", tmp_path, **values)
    run.initialize()
    run.run()
    out = tmp_path / "output"
    written = gzip.decompress((out / "PHANTOM_000_t1_inpainted.nii.gz").read_bytes())
    assert len(written) == len(content)
    offset = nib.load(file).dataobj.offset
    assert written[:offset] == content[:offset]
    hole = nib.load(case / "PHANTOM_000_seg.nii.gz").as_reoriented(TURNED).get_fdata() > 0
    before, after = (nib.load(f).dataobj.get_unscaled() for f in (file, out / "PHANTOM_000_t1_inpainted.nii.gz"))
    assert 0 < hole.sum() < hole.size / 2
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] != before[hole]).mean() > 0.5
    settings = json.loads((out / "PHANTOM_000.json").read_text())["settings"]
    assert settings["hole_labels"] is None
    # as MONAI Label calls it: no subject, no evaluator
    scans = [str(case / f"PHANTOM_000_{name}.nii.gz") for name in ("t1", "t2")]
    item = run.preprocessing({"image": scans, "label": str(case / "PHANTOM_000_seg.nii.gz")})
    volume = run.inferer(item["image"][None], run.parser.get_parsed_content("network"))
    pred = run.postprocessing({**item, "pred": volume[0]})["pred"].numpy()
    for channel, scan in zip(pred, scans, strict=True):
        np.testing.assert_array_equal(channel[~hole], nib.load(scan).get_fdata(dtype=np.float32)[~hole])
    np.testing.assert_array_equal(np.round((pred[0][hole] - 3) / 0.5), after[hole])


@pytest.mark.parametrize(("numbers", "message"), [("none", "marks nothing"), ("all", "covers the whole brain")])
def test_a_mask_of_nothing_or_everything_is_refused(trained, tmp_path, numbers, message):
    folder, _ = trained
    case, values = cases(folder, tmp_path)
    scan = nib.load(case / "PHANTOM_000_t1.nii.gz")
    label = (scan.get_fdata() != 0) if numbers == "all" else np.zeros(scan.shape)
    nib.save(nib.Nifti1Image(label.astype(np.uint8), scan.affine), case / "PHANTOM_000_seg.nii.gz")
    run = workflow("inference_inpainting", "infer", tmp_path, **values)
    run.initialize()
    with pytest.raises(Exception, match="Failed") as error:
        run.run()
    assert message in chain(error.value)
