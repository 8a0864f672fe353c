"""The page about a run."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from idm_bundle.__main__ import main
from idm_bundle.report import expected, report
from idm_bundle.report.digits import plain, statistic
from idm_bundle.report.page import GROUPS
from idm_bundle.report.settings import read_settings
from idm_bundle.studies import course
from tests.bundle.workspace import CONFIGS
from tests.report.run_folder import Reader, model, run

KNOBS = [knob for group in GROUPS.values() for knob in group]


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
