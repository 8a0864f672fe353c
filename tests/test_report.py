"""The page about a run."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fire
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from torch.utils.tensorboard import SummaryWriter

from idm_bundle.__main__ import main
from idm_bundle.report import expected, report
from idm_bundle.report.command import Command, repeat
from idm_bundle.report.digits import plain, statistic
from idm_bundle.report.page import GROUPS
from idm_bundle.report.settings import read_settings, validation_epochs
from idm_bundle.studies import course
from monai_idm.checkpoints import PHANTOM, RunRecord, sign
from monai_idm.networks import PRESETS
from monai_idm.schedulers import StridedDDPMScheduler
from monai_idm.tasks import Generation
from tests.bundle.workspace import CONFIGS, train

PSNR = {"mean": 26.512345678901234, "sd": 0.5, "n": 8, "ci95": [26.25, 26.75]}
WORDS = {"true": True, "false": False, "null": None}
KNOBS = [knob for group in GROUPS.values() for knob in group]


def run(folder: Path) -> Path:
    """What a small training run and an evaluation write."""
    with SummaryWriter(str(folder / "tensorboard")) as events:
        for step in range(200):
            events.add_scalar("train_loss", 1 / (step + 1), step)
        for epoch in (1, 2):
            events.add_scalar("psnr_brain", 20 + epoch, epoch)
            events.add_scalar("live_peak_gib", 0.5, epoch)
    summary = {"cases": 8, "image": {"t1": {"brain": {"<blur>": {"psnr": PSNR}}}}}
    (folder / "validation.json").write_text(json.dumps({"summary": summary}))
    (folder / "datalist.json").write_text("[]")  # not a table
    for picture in ("montage_epoch0001.png", "montage_epoch0002.png", "evaluation/case.png"):
        (folder / picture).parent.mkdir(exist_ok=True)
        Figure(figsize=(1, 1)).savefig(folder / picture)
    return folder


T1 = Generation(["t1"])


def model(folder: Path, source: str = PHANTOM, task: Generation = T1, **arguments: Any) -> Path:
    """Weights with the record of a run of the defaults of train.yaml, except for its seed."""
    network = torch.nn.Linear(1, 1)
    record = RunRecord(task, [StridedDDPMScheduler(100, "cosine")], seed=7)
    record.describe_data(source, 64, [32, 32, 32], 5.0566846790416635)
    network_arguments = {**PRESETS["light"], "bookend_stride": 1, "inverse_head": False, **arguments}
    content = {name: list(v) if isinstance(v, tuple) else v for name, v in network_arguments.items()}
    sign(network, "arguments", lambda _: content)
    folder.mkdir(exist_ok=True)
    torch.save(record.sign(network).state_dict(), folder / "model.pt")
    return folder / "model.pt"


class Reader(HTMLParser):
    """The tags, attributes and text of a page; of each table and command line, the classes it is in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.command = ""
        self.cells: list[str] = []
        self.containers: list[list[str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("table", "pre"):
            self.containers.append([kind for _, kind in self._open])
        if tag == "td":
            self.cells.append("")
        if tag not in ("meta", "img"):
            self._open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        self.text += data
        if any(tag == "pre" for tag, _ in self._open):
            self.command += data
        if any(tag == "td" for tag, _ in self._open):
            self.cells[-1] += data


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


def test_a_page_shows_curves_tables_pictures_and_settings(tmp_path):
    folder = run(tmp_path / "output")
    page = Reader(report(folder, model(tmp_path / "models")).read_text())
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 3
    assert tags.count("img") == 2  # of the montages the newest
    for cell in ("26.51 ± 0.50 [26.25, 26.75]", "brain", "<blur>", "generation", "cosine", "seed", "7", "5.057"):
        assert cell in page.cells
    for text in ("cases: 8", "no patient data", "--seed 7"):
        assert text in page.text
    assert "montage_epoch0002.png" in page.text
    assert "montage_epoch0001.png" not in page.text


def test_the_loss_of_real_brains_is_shown_beside_that_of_an_earlier_training(tmp_path, monkeypatch):
    folder, weights = run(tmp_path / "output"), model(tmp_path / "models", source="/data/brains")
    knobs = read_settings(folder, weights).knobs
    docs = tmp_path / "bundle" / "docs"
    docs.mkdir(parents=True)
    monkeypatch.setattr(expected, "bundle_here_or_installed", lambda: docs.parent)
    assert "batch size" not in report(folder, weights).read_text()
    for changed, shown in (({}, True), ({"noise_shift": 2.0}, False)):
        theirs = {name: knobs.get(name) for name in course._KNOBS if name != "batch_size"} | {
            "batch_size": 1,
            **changed,
        }
        results = {"a training": {"knobs": theirs, "loss": [[100, 0.5], [200, 0.2]]}}
        (docs / "study_course.json").write_text(json.dumps({"results": results}))
        assert ("T1 of 118 healthy adults, batch size 1" in report(folder, weights).read_text()) == shown
        assert "batch size" not in report(folder, model(tmp_path / "phantoms")).read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (2000000, "2000000"),
        (0.1 + 0.2, "0.3"),
        (24 / 36, "0.6667"),
        (1234.5678, "1235"),
        (1234567.8, "1234568"),
        (0.0001, "0.0001"),
        (1.5e-5, "0.000015"),
        (5.0566846790416635, "5.057"),
        (3.21e-7, "3.21e-07"),  # more zeros than anybody counts
        (True, "true"),
        (None, "null"),
        ([0.1 + 0.2, "t1", False], "[0.3, t1, false]"),
        ({"lesion": 1}, "{lesion: 1}"),
    ],
)
def test_numbers_have_the_digits_that_they_are_worth(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("metric", "mean", "sd", "text"),
    [
        ("psnr", 26.512345, 0.123456, "26.51 ± 0.12"),
        ("ssim", 0.91234567, 0.0123456, "0.9123 ± 0.0123"),
        ("mae", 0.08114690333604813, None, "0.0811"),
        ("dice", 0.5454545617103577, 0.1, "0.5455 ± 0.1000"),
        ("hd95_mm", 108.10249328613281, 3.0, "108.1 ± 3.0"),
        ("mmd_texture", 0.000012345678, None, "0.00001235"),
        ("dice", 0.0, None, "0"),
        ("hd95_mm", None, None, "–"),
    ],
)
def test_a_metric_has_its_decimals_in_mean_and_spread(metric, mean, sd, text):
    assert statistic(metric, {"mean": mean, "sd": sd}) == text


def test_a_mean_of_some_cases_states_how_many():
    assert statistic("hd95_mm", {"mean": 5.0, "n": 3}, cases=8) == "5.000, 3 of 8 cases"
    assert statistic("hd95_mm", {"mean": 5.0, "n": 8}, cases=8) == "5.000"


def test_no_cell_has_more_digits_than_anybody_reads(tmp_path):
    page = Reader(report(run(tmp_path / "output"), model(tmp_path / "models")).read_text())
    assert len(page.cells) > 50
    for cell in page.cells:
        if "torch" not in cell and str(tmp_path) not in cell:
            assert not re.search(r"\.\d{6}|\de[-+]?\d", cell), cell


def test_whatever_may_be_wide_scrolls_in_its_own_container(tmp_path):
    file = report(run(tmp_path / "output"), model(tmp_path / "models"))
    page = Reader(file.read_text())
    assert len(page.containers) == 3  # the command, the settings, a table
    for classes in page.containers:
        assert "wide" in classes
    style = re.search(r"\.wide \{(.*?)\}", file.read_text())
    assert style is not None
    assert "overflow-x: auto" in style[1]


def test_every_knob_of_the_configs_has_a_group():
    """A knob is a value at the top of a config that has a comment and is no part of the machinery."""
    names = set()
    for file in (
        "train",
        "segmentation",
        "synthesis",
        "inpainting",
        "semantic",
        "super_resolution",
        "medmnist",
        "native",
        "paper",
        "patchddm",
    ):
        text = (CONFIGS / f"{file}.yaml").read_text()
        plain_values = {k for k, v in yaml.safe_load(text).items() if not isinstance(v, dict)}
        names |= plain_values & {*re.findall(r"^(\w+): (?![\"'][%@]).*", text, re.MULTILINE)}
    machinery = {"imports", "initialize", "run", "bundle_root", "device", "resume", "trained", "is_not_rank0"}
    machinery |= {
        "data_dir",
        "transforms",
        "several",
        "made",
        "network",
        "few_step_scheduler",
        "generating_scheduler",
        "evaluating",
        "to_image_range",
        "picture",
        "numeric_conditions",
    }
    assert names - machinery - {*KNOBS} == set()


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


def test_a_page_needs_nothing_from_elsewhere(tmp_path):
    file = report(run(tmp_path))
    for _, attributes in Reader(file.read_text()).tags:
        for name in ("src", "href", "xlink:href"):
            assert re.match(r"data:|#", attributes.get(name) or "#")
    assert "url(" not in re.sub(r"url\(#\w+\)", "", file.read_text())  # svg's own references
    assert "@import" not in file.read_text()


def test_the_same_run_gives_the_same_page(tmp_path):
    assert report(run(tmp_path)).read_bytes() == report(tmp_path).read_bytes()


def test_another_run_below_has_a_page_of_its_own(tmp_path):
    folder = run(tmp_path)
    run(folder / "segmentation")
    assert "segmentation" not in report(folder).read_text()


def test_no_run_no_page(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="give the output_dir of a training run"):
        report(tmp_path)
    assert not list(tmp_path.iterdir())
    run(tmp_path / "output")
    assert main(["report", str(tmp_path / "output"), "--weights", str(tmp_path / "none.pt")]) == 1
    assert "no weights at" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "output"), "--file", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()
