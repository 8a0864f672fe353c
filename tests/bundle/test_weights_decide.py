"""Inference takes its settings from the weights, so that nobody has to type them again."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from idm_bundle.packaging import package
from idm_bundle.studies.configs import configured
from monai_idm.checkpoints import PHANTOM, read_record
from monai_idm.checkpoints.split import hashed_split
from monai_idm.data import write_phantoms
from tests.bundle.workspace import TINY, chain, train, workflow

SIZE = [16, 16, 16]


def weights(folder: Path, *overlays: str, everywhere: bool = False, **changes) -> Path:
    """A model.pt as training writes it, but untrained; if ``everywhere``, its network segments every voxel."""
    config = configured({"device": "$torch.device('cpu')", "spatial_size": SIZE, **changes}, *overlays)
    network, record = (config.get_parsed_content(name) for name in ("network", "record"))
    record.describe_data(PHANTOM, num_cases=3, spatial_size=config.get_parsed_content("spatial_size"), spacing_mm=2.0)
    if everywhere:
        last = [p for p in network.exit.parameters() if p.ndim == 1][-1]
        torch.nn.init.constant_(last, 5.0)
    file = folder / "model.pt"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("cases"), 1, (32, 32, 24))


def trained_settings(folder: Path, name: str):
    """The ``trained`` settings of a config in a packaged bundle."""
    config = ConfigParser()
    config.read_config(folder / "configs" / f"{name}.json")
    config["bundle_root"] = str(folder)
    return config.get_parsed_content("trained")


def infer(name: str, folder: Path, ckpt_file: Path, **values):
    values = {"num_inference_steps": 2, "device": TINY["device"], "ckpt_file": str(ckpt_file), **values}
    run = workflow(name, "infer", folder, **values)
    run.initialize()
    run.run()
    return run


@pytest.mark.parametrize(
    ("knobs", "number"),
    [
        ({"regions": ["enhancing"], "label_map": "brats2020"}, 4),
        ({"regions": ["enhancing"], "label_map": "brats2023"}, 3),
        ({"regions": ["enhancing"], "label_map": "brats2024_ped"}, 1),
        ({"regions": ["oedema"], "label_map": {"oedema": 9}}, 9),
        ({"regions": ["oedema"], "label_map": "decathlon", "coordinates": False}, 1),
        ({"regions": ["oedema"], "zoom": False, "spatial_size": [32, 32, 32]}, 2),
        ({"regions": ["oedema"], "lambda_r": 0.1, "window_percentiles": [1, 99]}, 2),
    ],
    ids=str,
)
def test_labels_are_written_as_they_were_trained(knobs, number, cases, tmp_path):
    file = weights(tmp_path, "segmentation", everywhere=True, **knobs)
    run = infer("inference_segmentation", tmp_path, file, dataset_dir=str(cases))
    label = np.asarray(nib.load(tmp_path / "output" / "PHANTOM_000_seg.nii.gz").dataobj)
    assert set(np.unique(label)) <= {0, number}
    assert (label == number).mean() > 0.1
    (to_grid,) = (t for t in run.preprocessing.transforms if type(t).__name__ == "BrainToGridd")
    (fit,) = (step for step in to_grid.steps if type(step).__name__ == "FitToGridd")
    (window,) = (step for step in to_grid.steps if type(step).__name__ == "WindowIntensityd")
    assert fit.zoom is knobs.get("zoom", True)
    assert [window.lower, window.upper] == knobs.get("window_percentiles", [0.5, 99.5])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"label_map": "brats2020"}, "label_map: brats2023 in the checkpoint, brats2020 here"),
        ({"zoom": True}, "zoom: False in the checkpoint, True here"),
        ({"spatial_size": [16, 16, 16]}, "spatial_size: [32, 32, 32] in the checkpoint, [16, 16, 16] here"),
        ({"preset": "base"}, "preset: light in the checkpoint, base here"),
    ],
    ids=str,
)
def test_a_knob_that_contradicts_the_weights_is_refused(typed, message, cases, tmp_path):
    file = weights(
        tmp_path, "segmentation", label_map="brats2023", zoom=False, coordinates=True, spatial_size=[32, 32, 32]
    )
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        infer("inference_segmentation", tmp_path, file, dataset_dir=str(cases), **typed)
    assert message in chain(error.value)
    assert not list((tmp_path / "output").glob("*.nii.gz"))


@pytest.mark.parametrize("known", [["t2"], None])
def test_contrasts_are_made_as_they_were_trained(known, cases, tmp_path):
    file = weights(tmp_path, "synthesis", modalities=["t1", "t2"], known=known)
    infer("inference_synthesis", tmp_path, file, dataset_dir=str(cases))
    made = "t1" if known == ["t2"] else "t2"
    assert [f.name for f in (tmp_path / "output").glob("*.nii.gz")] == [f"PHANTOM_000_{made}_synthetic.nii.gz"]


def test_made_contrasts_have_one_air_whatever_the_scale_of_the_input(cases, tmp_path):
    """With z-scores air is in the middle of the network's range; around the crop, its inverse writes 0."""
    scored = tmp_path / "scored" / "PHANTOM_000"
    scored.mkdir(parents=True)
    source = nib.load(cases / "PHANTOM_000" / "PHANTOM_000_t1.nii.gz")
    x = source.get_fdata()
    z = np.where(x != 0, (x - x[x != 0].mean()) / x[x != 0].std(), 0)
    nib.save(nib.Nifti1Image(z.astype(np.float32), source.affine), scored / "PHANTOM_000_t1.nii.gz")
    infer("inference_synthesis", tmp_path, weights(tmp_path, "synthesis"), dataset_dir=str(scored.parent))
    written = nib.load(tmp_path / "output" / "PHANTOM_000_t2_synthetic.nii.gz").get_fdata()
    assert not written[x == 0].any()
    assert written[x != 0].std() > 0


@pytest.mark.parametrize(
    ("task", "knobs"),
    [
        ((), {"lambda_r": 0.1, "zoom": False}),
        (("segmentation",), {"regions": ["oedema"], "label_map": "brats2023", "zoom": False}),
        (("segmentation",), {"coordinates": False, "regions": ["necrosis", "oedema"]}),
        (("synthesis",), {"window_percentiles": [1, 99]}),
    ],
    ids=str,
)
def test_a_packaged_bundle_has_the_settings_of_training(task, knobs, tmp_path):
    folder = package(weights(tmp_path, *task, **knobs), tmp_path / "out")
    recorded = {knob: value for knob, value in knobs.items() if knob != "lambda_r"}
    train = json.loads((folder / "configs" / "train.json").read_text())
    assert {**train, **recorded} == train
    for weights_there in (True, False):  # without: as for a tool that inspects a bundle
        for name in ("inference", "evaluate") if weights_there else ("inference",):
            settings = trained_settings(folder, name)
            assert {knob: settings[knob] for knob in recorded} == recorded
        (folder / "models" / "model.pt").unlink(missing_ok=True)


def test_the_weights_record_their_training_cases_and_evaluation_excludes_them(tmp_path):
    data = write_phantoms(tmp_path / "data", 6, (32, 32, 24))
    short = {"seed": 3, "spatial_size": SIZE, "epoch_length": 1, "val_interval": 1}
    train(tmp_path, dataset_dir=str(data), max_epochs=1, **short)
    file, written = tmp_path / "models" / "model.pt", tmp_path / "output" / "datalist.json"
    trained, before = json.loads(written.read_text()), written.read_bytes()
    split = read_record(file)["split"]
    assert {part: len(split[part]["subjects"]) for part in trained if part in split} == {
        part: len(trained[part]) for part in ("training", "validation", "test")
    }
    assert "PHANTOM_" not in json.dumps(split)
    for name in ("evaluate", "evaluate_generation"):  # README's commands, without the training's seed
        evaluation = workflow(
            ["train", name], "train", tmp_path, dataset_dir=str(data), ckpt_dir=str(file.parent), spatial_size=SIZE,
            evaluation_split="test", device=TINY["device"], num_inference_steps=2,
        )  # fmt: skip
        datalist = evaluation.parser.get_parsed_content("datalist")
        assert [i["subject"] for i in datalist["test"]] == [i["subject"] for i in trained["test"]]
    evaluation = workflow(
        ["train", "evaluate"], "train", tmp_path, dataset_dir=str(data), ckpt_dir=str(file.parent),
        spatial_size=SIZE, evaluation_split="all", device=TINY["device"],
    )  # fmt: skip
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        evaluation.parser.get_parsed_content("datalist")
    assert "the weights were trained on 4 of the 6 cases" in chain(error.value)
    assert written.read_bytes() == before
    write_phantoms(tmp_path / "grown", 7, (32, 32, 24))  # the folder grew
    with pytest.raises(Exception, match=r"Failed|trained") as error:
        train(tmp_path, dataset_dir=str(tmp_path / "grown"), max_epochs=2, resume=True, **short)
    assert "the checkpoint was trained with cases other than the current ones" in chain(error.value)


@pytest.mark.parametrize("task", [[], ["synthesis"], ["segmentation"]], ids=str)
def test_a_folder_of_other_patients_is_evaluated_as_a_whole(task, tmp_path):
    """README's commands with --evaluation_split all, without any training case to compare with."""
    file = weights(tmp_path, *task, num_inference_steps=2)
    split = {"training": [("ann", "ann")], "validation": [("bob", "bob")], "test": [("cat", "cat")]}
    content = torch.load(file, weights_only=True)
    record = content._metadata[""]["record"]
    record["split"] = hashed_split(split)
    torch.save(content, file)
    others = write_phantoms(tmp_path / "others", 2, (32, 32, 24))
    for verb in {"": ["evaluate", "evaluate_generation"]}.get("".join(task), [f"evaluate_{''.join(task)}"]):
        run = workflow(
            ["train", *task, verb], "train", tmp_path / verb, dataset_dir=str(others), ckpt_file=str(file),
            spatial_size=SIZE, evaluation_split="all", device=TINY["device"], num_inference_steps=2,
            **{"num_samples": 2} if verb == "evaluate_generation" else {},
        )  # fmt: skip
        run.initialize()
        run.run()
        (table,) = (tmp_path / verb / "output").glob("*/*.json")
        assert json.loads(table.read_text())["summary"]["cases"] == 2


@pytest.mark.parametrize(
    ("prediction_type", "options", "sampler", "steps"),
    [
        ("flow", {}, "DPMSolverPlusPlusScheduler", 10),
        ("flow", {"sampler": "StridedDDPMScheduler"}, "StridedDDPMScheduler", 40),
        ("flow", {"sampler": "StridedDDPMScheduler", "num_inference_steps": 7}, "StridedDDPMScheduler", 7),
        ("v_prediction", {}, "DPMSolverPlusPlusScheduler", 10),
        ("epsilon", {}, "StridedDDPMScheduler", 40),
        ("epsilon", {"num_inference_steps": 7}, "DPMSolverPlusPlusScheduler", 7),
    ],
)
def test_samples_take_ten_steps_unless_these_would_be_bad(prediction_type, options, sampler, steps, tmp_path):
    """Few steps of a network that predicts noise are far off."""
    file = weights(tmp_path, prediction_type=prediction_type, num_train_timesteps=40)
    config = configured({"ckpt_file": str(file), "device": TINY["device"], **options}, of="inference")
    scheduler = config.get_parsed_content("inferer").inferer.scheduler
    assert (type(scheduler).__name__, len(scheduler.timesteps)) == (sampler, steps)
    assert config.get_parsed_content("settings")["sampler"] == sampler


@pytest.mark.parametrize(("prediction_type", "shift"), [("flow", 2.0), ("v_prediction", 1.0)])
def test_more_voxels_have_more_noise_in_a_flow(prediction_type, shift):
    config = configured({"spatial_size": [64, 64, 64], "prediction_type": prediction_type})
    assert config.get_parsed_content("scheduler").noise_shift == pytest.approx(shift)
