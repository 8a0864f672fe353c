"""Trainings with the values of a table, at tiny size on phantoms: learned, resumed, asked for."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from idm_bundle.studies.configs import SMALLEST
from monai_idm.checkpoints import read_checkpoint
from monai_idm.data import DrawNoised
from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.trained import TrainedModel
from tests.bundle.workspace import TINY, chain, sample, train, workflow


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """A folder of a training with conditions, its table, and the changes that it was trained with."""
    folder = tmp_path_factory.mktemp("conditioned")
    table = folder / "people.csv"
    people = [f"PHANTOM_{i:03d},{20 + 10 * i},{'FMMFM'[i]}" for i in (0, 2, 3, 4)]  # a training case has no row
    table.write_text("\n".join(["subject,Age,Sex", *people]))
    changes = {"demo#spatial_size": [8, 8, 8], "demo#max_epochs": 2, "demo#epoch_length": 3, "conditions": str(table)}
    train(folder, **{**SMALLEST, **changes}, condition_dropout=0.5)
    return folder, table, {**SMALLEST, **changes}


def test_conditions_of_a_table_are_learned_recorded_and_asked_for_by_name(conditioned, tmp_path, caplog):
    folder, *_ = conditioned
    trained = TrainedModel(folder / "models" / "model.pt", "generation")
    age, sex = trained["numeric_conditions"]
    assert (age["name"], sex) == ("Age", {"name": "Sex", "words": ["F", "M"]})
    datalist = json.loads((folder / "output" / "datalist.json").read_text())
    known = [float(a) for item in datalist["training"] if (a := item["condition_values"]["Age"])]
    assert age["mean"] == pytest.approx(np.mean(known))
    assert age["sd"] == pytest.approx(np.std(known))
    weight = read_checkpoint(folder / "models" / "checkpoint_epoch=2.pt")["network"]["embedding.conditions.weight"]
    assert weight.shape[1] == 2 * 8
    assert (weight != 0).any(0).sum() > 8  # known and unknown

    asked = {"condition_values": {"Age": [age["max"], 99], "Sex": "M"}}
    one, guided = (sample(folder, tmp_path / str(s), guidance_scale=s, **asked) for s in (1, 3))
    assert "Age=99 (trained on" in caplog.text
    assert json.loads((one / "sample_001.json").read_text())["condition_values"] == {"Age": "99", "Sex": "M"}

    network = trained.network()
    network.load_state_dict(torch.load(trained.file, weights_only=True))
    values = torch.tensor([[(a - age["mean"]) / age["sd"], 1.0] for a in (age["max"], 99)])
    noise = torch.stack([DrawNoised("image", 2, [8, 8, 8])({"seed": i})["image"] for i in (0, 1)])
    inferer = InvertibleDiffusionInferer(trained.sampler("DPMSolverPlusPlusScheduler", 4, timestep_spacing="karras"))
    for written, given in [(one, {"conditions": values}), (guided, {"conditions": values, "guidance_scale": 3})]:
        expected = inferer.sample(noise, network.eval(), verbose=False, seeds=[0, 1], **given)
        image = nib.load(written / "sample_001_t2.nii.gz").get_fdata()
        np.testing.assert_allclose(image, ((expected[1, 1] + 1) / 2).clamp(0, 1), atol=1e-5)
    for changes, match in [
        ({"condition_values": {"Age": 30}}, "other settings (condition_values)"),
        ({**asked, "guidance_scale": 2}, "other settings (guidance_scale)"),
    ]:
        with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
            sample(folder, tmp_path / "1", **changes)
        assert match in chain(error.value)


def test_a_training_with_conditions_resumes_bit_for_bit_and_not_with_another_table(conditioned, tmp_path):
    folder, table, changes = conditioned
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "models" / "checkpoint_epoch=2.pt").unlink()
    for csv_file in (tmp_path / "run" / "output").glob("*.csv"):
        csv_file.unlink()
    run = train(tmp_path / "run", **changes, condition_dropout=0.5, resume=True)
    assert run.parser.get_parsed_content("train#step").condition_dropout == 0.5
    expected, found = (
        torch.load(place / "models" / "checkpoint_epoch=2.pt", weights_only=True)["network"]
        for place in (folder, tmp_path / "run")
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace("20,F", "21,F"))
    changes |= {"conditions": str(other), "demo#max_epochs": 3}
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        train(tmp_path / "run", **changes, resume=True)
    assert "numeric_conditions: " in chain(error.value)


def test_samples_are_evaluated_at_the_values_of_the_real_cases(conditioned, tmp_path):
    folder, _, changes = conditioned
    values = {**changes, "ckpt_dir": str(folder / "models"), "num_samples": 2, "evaluation_split": "validation"}
    evaluation = workflow(["train", "evaluate_generation"], "train", tmp_path, **values)
    evaluation.initialize()
    samples = evaluation.parser.get_parsed_content("samples")
    cases = evaluation.parser.get_parsed_content("datalist")["validation"]
    assert [s["condition_values"] for s in samples] == [cases[i % len(cases)]["condition_values"] for i in (0, 1)]
    evaluation.run()
    evaluation = workflow(["train", "evaluate_generation"], "train", tmp_path, **values | {"conditions": None})
    evaluation.initialize()
    assert not any("condition_values" in s for s in evaluation.parser.get_parsed_content("samples"))
    assert evaluation.parser.get_parsed_content("network_def").arguments["num_conditions"] == 2


@pytest.mark.parametrize(
    "overlays", [["segmentation"], ["synthesis"], ["segmentation", "patchddm"], ["patchddm"]], ids=str
)
def test_what_takes_no_conditions_says_so_before_training(overlays, conditioned, tmp_path):
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)|conditions") as error:
        train(tmp_path, ["train", *overlays], **conditioned[2])
    assert "have values of Age, Sex, but this network takes no conditions" in chain(error.value)


def test_a_network_without_conditions_needs_no_data_to_be_built(tmp_path):
    run = workflow("train", "train", tmp_path, **TINY)
    run.initialize()
    assert run.network_def.embedding.conditions is None
    assert not (tmp_path / "output").exists()
