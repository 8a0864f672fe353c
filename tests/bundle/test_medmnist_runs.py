"""Training on a file of MedMNIST3D, sampling each of its classes, and comparing the samples with its test set."""

from __future__ import annotations

import json

import pytest

from monai_idm.trained import TrainedModel
from tests.bundle.workspace import chain, train, workflow
from tests.data.test_medmnist import content, written

SMALL = {
    "spatial_size": [16, 16, 16],
    "max_epochs": 1,
    "epoch_length": 1,
    "val_interval": 1,
    "batch_size": 2,
    "num_inference_steps": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("medmnist")
    file = written(folder, "fracturemnist3d.npz", **content(classes=3))
    train(folder, ["train", "medmnist"], dataset_dir=str(file), **SMALL)
    return folder, file


def test_the_weights_record_classes_and_split(trained):
    folder, _ = trained
    model = TrainedModel(folder / "models" / "model.pt", task="generation")
    assert model["classes"] == ["buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"]
    assert model["modalities"] == ["image"]
    assert len(json.loads((folder / "output" / "datalist.json").read_text())["test"]) == 3
    assert (folder / "output" / "validation.csv").is_file()


def test_samples_of_a_class_are_drawn_by_its_name(trained, tmp_path):
    folder, _ = trained
    weights = str(folder / "models" / "model.pt")
    values = {"ckpt_file": weights, "num_inference_steps": 2, "device": "$torch.device('cpu')"}
    run = workflow("inference", "infer", tmp_path, class_name="displaced rib fracture", num_samples=1, **values)
    run.initialize()
    run.run()
    settings = json.loads(next((tmp_path / "output").rglob("*.json")).read_text())
    assert settings["class_label"] == 2
    assert len([*(tmp_path / "output").rglob("*.nii.gz")]) == 1


def test_samples_are_compared_with_the_test_set(trained):
    folder, file = trained
    values = {**SMALL, "dataset_dir": str(file), "ckpt_dir": str(folder / "models"), "num_samples": 3}
    run = workflow(
        ["train", "medmnist", "evaluate_generation"], "train", folder, device="$torch.device('cpu')", **values
    )
    run.initialize()
    run.run()
    summary = json.loads((folder / "output" / "generation" / "generation.json").read_text())["summary"]
    assert summary["cases"] == 3
    assert summary["methods"]["real"]


def test_without_the_overlay_the_error_names_it(trained, tmp_path):
    _, file = trained
    with pytest.raises(RuntimeError) as error:
        train(tmp_path, dataset_dir=str(file))
    assert "medmnist.yaml" in chain(error.value)
