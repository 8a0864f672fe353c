"""The command that repeats a run, as its page states it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import fire
import pytest
import torch
from monai.bundle import ConfigParser

from idm_bundle.report import report
from idm_bundle.report.command import Command, repeat
from idm_bundle.report.page import GROUPS
from idm_bundle.report.settings import read_settings, validation_epochs
from monai_idm.checkpoints import RunRecord
from monai_idm.tasks import Generation
from tests.bundle.workspace import train
from tests.report.run_folder import Reader, model, run

WORDS = {"true": True, "false": False, "null": None}
KNOBS = [knob for group in GROUPS.values() for knob in group]


def read_command(command: str) -> tuple[list[str], dict[str, Any]]:
    """The config files and the options of a command line, read as a shell, MONAI and the configs read them."""
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:5] == ["python", "-m", "monai.bundle", "run", "training"]
    options = fire.Fire(lambda **options: options, command=words[5:])
    files = options.pop("config_file")
    options = {k: WORDS.get(v.lower(), v) if isinstance(v, str) else v for k, v in options.items()}
    return [files] if isinstance(files, str) else files, options


def configured(files: list[str], options: dict[str, Any]) -> ConfigParser:
    config = ConfigParser()
    config.read_config(files)
    config.update(options)
    return config


def test_the_command_of_a_run_repeats_it(tmp_path):
    """Of a real run: what the command sets equals what was set, and the page names all that was not recorded."""
    given = {
        "seed": 3,
        "learning_rate": 2e-5,
        "zero_terminal_snr": True,
        "modalities": ["t1", "flair"],
        "fractions": [0.6, 0.2, 0.2],
    }
    given |= {"network_def#norm_num_groups": 4}
    ran = train(tmp_path, **given)
    page = Reader(report(tmp_path / "output", tmp_path / "models" / "model.pt").read_text())
    repeated = configured(*read_command(page.command))
    named = re.search(r"left at their defaults: (.*);", page.text)
    assert named is not None
    unrecorded = named[1].split(", ")
    compared = [knob for knob in KNOBS if knob in repeated and knob not in unrecorded] + ["network_def#norm_num_groups"]
    assert len(compared) > 30
    for knob in compared:
        original, again = (config.get_parsed_content(knob) for config in (ran.parser, repeated))
        if knob == "val_interval":
            original, again = (validation_epochs(interval, 2, 2) for interval in (original, again))
        assert again == original, knob
    changed = {knob for knob in KNOBS if knob in repeated and knob not in compared}
    assert {"num_inference_steps", "ema_interval"} <= changed  # given to the run, and in no file of it


def test_a_command_has_only_what_differs_from_the_defaults(tmp_path):
    weights = model(tmp_path / "models", norm_num_groups=8)
    settings = read_settings(tmp_path / "output", weights)
    command = repeat(settings, KNOBS)
    changed = ["modalities", "num_train_timesteps", "prediction_type", "seed"]
    assert command.configs == ("bundle/configs/train.yaml",)
    assert [*command.options] == [*changed, "output_dir", "ckpt_dir"]
    settings.knobs |= {"output_dir": "bundle/output", "ckpt_dir": "./bundle/models"}
    assert [*repeat(settings, KNOBS).options] == changed


@pytest.mark.parametrize(
    ("overlays", "task", "optimizer"),
    [
        ([], "generation", "AdamWWeightNorm"),
        (["paper"], "generation", "AdamWWeightNorm"),
        (["native"], "generation", "AdamWInBackward"),
        (["synthesis"], "synthesis", "AdamWWeightNorm"),
        (["segmentation"], "segmentation", "AdamWWeightNorm"),
        (["segmentation", "native"], "segmentation", "AdamWInBackward"),
        (["segmentation", "patchddm"], "segmentation", "AdamWWeightNorm"),
    ],
)
def test_the_config_files_of_a_run_are_recognised(tmp_path, overlays, task, optimizer):
    files = [f"bundle/configs/{name}.yaml" for name in ("train", *overlays)]
    config = configured(files, {"dataset_dir": "/data/BraTS2020"})
    settings = read_settings(tmp_path, model(tmp_path))
    settings.task, settings.optimizer = task, optimizer
    settings.network = "PatchDiffusionUNet" if "patchddm" in overlays else "InvertibleDiffusionUNet"
    recorded = ("preset", "bookend_stride", "modalities", "network_range", "num_train_timesteps", "schedule", "zoom")
    recorded += ("prediction_type", "zero_terminal_snr", "spatial_size", "learning_rate", "betas", "lambda_l2")
    settings.knobs = {knob: config.get_parsed_content(knob) for knob in recorded}
    settings.knobs["dataset_dir"] = "/data/BraTS2020"
    command = repeat(settings, KNOBS)
    assert [*command.configs] == files
    assert [*command.options] == ["dataset_dir"]


def test_conditions_are_named_and_their_table_is_asked_for(tmp_path):
    conditions = [{"name": "51", "mean": 1.0, "sd": 1.0, "min": 0.5, "max": 2.0}, {"name": "Sex", "words": ["F", "M"]}]
    settings = read_settings(tmp_path, model(tmp_path, task=Generation(["t1"], numeric_conditions=conditions)))
    assert settings.facts["conditions"] == "51 (0.5 to 2), Sex (F or M)"
    assert settings.knobs["condition_columns"] == ["51", "Sex"]
    assert any("add --conditions" in gap for gap in settings.gaps)
    settings = read_settings(tmp_path, model(tmp_path))
    assert not {"conditions", "numeric_conditions", "condition_columns"} & {*settings.facts, *settings.knobs}
    assert not any("--conditions" in gap for gap in settings.gaps)


@pytest.mark.parametrize(
    "options",
    [
        {"output_dir": "my runs/2024", "ckpt_dir": 'it\'s $HOME "here"'},
        {"output_dir": "2024_01", "ckpt_dir": "1e3"},
        {"label_map": {"lesion": 1, "old lesion": 2}, "classes": ["HGG", "LGG"], "class_file": "a,b.csv"},
        {"learning_rate": 1e-5, "zoom": False, "air": None, "spatial_size": [64, 64, 64], "betas": [0.9, 1 / 3]},
        {"network_def#channels": [16, 32], "network_def#attention_levels": [True, False]},
    ],
)
def test_an_option_is_read_back_as_it_was(options):
    _, read = read_command(str(Command(("train.yaml",), options, {})))
    for knob, value in options.items():
        same = Path(read[knob]) == Path(value) if knob.endswith(("_dir", "_file")) else read[knob] == value
        assert same, (knob, read[knob])


def test_a_page_names_no_folder_that_nobody_gave(tmp_path, monkeypatch):
    """Another program's cases are recorded with their absolute path."""
    folder = run(tmp_path / "work" / "output")
    model(tmp_path / "work", source=str(tmp_path / "secret" / "cases"))
    monkeypatch.chdir(tmp_path / "work")
    page = report("output", "model.pt").read_text()
    assert str(tmp_path) not in page
    assert "secret" not in page
    assert "replace path/to/cases by its path" in page
    assert "--dataset_dir path/to/cases" in page
    assert "configs were not found" in page  # and the command gives all that is known
    assert "--num_train_timesteps 100" in page
    assert (folder / "report.html").is_file()


def test_data_and_split_are_repeated_from_the_datalist(tmp_path):
    folder = tmp_path / "output"
    folder.mkdir()
    split = {part: [{"subject": f"{part}_{n}"} for n in range(2)] for part in ("training", "validation", "test")}
    content = {**split, "dataset_dir": "/data/BraTS2020", "fractions": [0.6, 0.2, 0.2], "seed": 0}
    (folder / "datalist.json").write_text(json.dumps(content))
    record = RunRecord(Generation(["t1"]), seed=0)
    cases = {part: [(item["subject"],) * 2 for item in items] for part, items in split.items()}
    record.describe_data("/data/BraTS2020", 2, [64, 64, 64], 2.5, cases)
    torch.save(record.sign(torch.nn.Linear(1, 1)).state_dict(), tmp_path / "model.pt")
    knobs = read_settings(folder, tmp_path / "model.pt").knobs
    assert knobs["dataset_dir"] == "path/to/BraTS2020"
    assert knobs["datalist_file"] == str(folder / "datalist.json")
    assert knobs["fractions"] == [0.6, 0.2, 0.2]
    (folder / "datalist.json").write_text(json.dumps({**content, "training": [{"subject": "another"}]}))
    assert "datalist_file" not in read_settings(folder, tmp_path / "model.pt").knobs


@pytest.mark.parametrize(
    ("epochs", "validated", "interval"),
    [(6, [2, 4, 6], 2), (7, [3, 6, 7], 3), (4, [4], 4), (3, [1, 2, 3], 1), (6, [1, 4], None)],
)
def test_the_interval_of_validation_follows_from_its_epochs(tmp_path, epochs, validated, interval):
    weights = model(tmp_path)
    state_dict = torch.load(weights, weights_only=True)
    group = {"params": [0], "lr": 0.0, "initial_lr": 1e-3, "betas": (0.9, 0.99), "lambda_l2": 1e-4, "amsgrad": False}
    trainer = {"iteration": 5 * epochs, "epoch_length": 5, "max_epochs": epochs}
    content = {"network": state_dict, "optimizer": {"param_groups": [group]}, "trainer": trainer}
    torch.save(content, tmp_path / f"checkpoint_epoch={epochs}.pt")
    settings = read_settings(tmp_path, weights, validated)
    assert settings.knobs.get("val_interval") == interval
    assert any("irregular epochs" in gap for gap in settings.gaps) == (interval is None)
    assert settings.knobs["learning_rate"] == 1e-3


def test_what_cannot_be_known_is_named(tmp_path):
    folder = run(tmp_path / "output")
    page = Reader(report(folder, model(tmp_path / "models", inverse_head=True)).read_text()).text
    for text in (
        "add --lambda_r",
        "learning rate and number of epochs are not known",
        "Number and size of the phantoms",
    ):
        assert text in page
    assert "Add --weights model.pt" in report(folder).read_text()
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "bare.pt")
    assert "bare.pt holds no record" in report(folder, tmp_path / "bare.pt").read_text()
