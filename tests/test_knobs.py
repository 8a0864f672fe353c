"""Knobs have the values that the user gave: words become values, paths stay as they are, typos are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_idm.handlers import TrainingCheckpoint
from monai_idm.knobs import read_knobs, require_plain_paths
from tests.bundle.workspace import CONFIGS, chain, workflow

MONAI = "/anywhere/monai/bundle/__main__.py"
# config, knob, the text as MONAI's command line passes it, and the value it stands for
TYPED = [
    ("train", "zoom", "false", False),
    ("train", "resume", "true", True),
    ("train", "resume", "False", False),
    ("train", "air", "null", None),
    ("train", "epoch_length", "null", None),
    (["train", "segmentation"], "coordinates", "false", False),
    (["train", "synthesis"], "known", "null", None),
    (["train", "multi_gpu_train"], "allow_links", "true", True),
    ("inference", "num_inference_steps", "null", None),
    ("inference_segmentation", "inference_patch_size", "NULL", None),
    ("inference_synthesis", "known", "null", None),
]


def config(names, **typed) -> ConfigWorkflow:
    files = [str(CONFIGS / f"{name}.yaml") for name in ([names] if isinstance(names, str) else names)]
    kind = "infer" if "inference" in files[0] else "train"
    values = {"bundle_root": str(CONFIGS.parent), "ckpt_file": "none.pt", **typed}
    return ConfigWorkflow(config_file=files, workflow_type=kind, logging_file=False, **values)


def read(workflow: ConfigWorkflow) -> ConfigWorkflow:
    """Do what initialize does first, before anything else reads a knob."""
    place = next(i for i, line in enumerate(workflow.parser["initialize"]) if "read_knobs" in line)
    assert not any("@" in line for line in workflow.parser["initialize"][:place])
    workflow.parser.get_parsed_content(f"initialize#{place}")
    return workflow


@pytest.mark.parametrize(("names", "knob", "typed", "value"), TYPED)
def test_a_word_is_its_value_wherever_the_knob_is_read(names, knob, typed, value):
    assert config(names, **{knob: typed}).parser.get_parsed_content(knob) == typed
    assert read(config(names, **{knob: typed})).parser.get_parsed_content(knob) is value


def test_a_knobs_previous_name_works_and_warns():
    with pytest.warns(FutureWarning, match="--judged_known is called --validation_known"):
        run = read(config(["train", "synthesis"], judged_known=["t2"]))
    assert run.parser.get_parsed_content("validation_known") == ["t2"]
    assert run.parser.get_parsed_content("validate#choose_known").known == ("t2",)


def test_the_parts_that_read_a_knob_get_its_value():
    run = read(config("train", zoom="false", resume="false"))
    assert run.parser.get_parsed_content("to_grid").steps[4].zoom is False
    assert run.parser.get_parsed_content("record").content["convention"]["zoom"] is False


def test_before_there_are_weights_a_word_reaches_the_settings_that_they_will_decide():
    run = read(config("inference_segmentation", zoom="false", coordinates="FALSE"))
    trained = run.parser.get_parsed_content("trained")
    assert trained["zoom"] is False
    assert trained["coordinates"] is False


def test_other_words_stay_words():
    run = read(config("train", sampler="nullify", schedule="cosine"))
    assert run.parser.get_parsed_content("sampler") == "nullify"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_that_runs_by_itself_reads_its_knobs_and_checks_its_paths(file):
    content = yaml.safe_load(file.read_text())
    if file.stem == "train" or file.stem.startswith("inference"):
        assert any("read_knobs" in line for line in content["initialize"])
    for name in {"run", "evaluating"} & {*content}:
        if isinstance(content[name], list):
            assert content[name][0] == "$monai_idm.check_paths()"
    if "initialize" in content:  # an overlay's too
        assert any("read_knobs" in line for line in content["initialize"])


def test_outside_of_a_config_there_are_no_knobs():
    with pytest.raises(RuntimeError, match="no config is being evaluated"):
        read_knobs()


@pytest.mark.parametrize(
    ("names", "typed", "message"),
    [
        ("inference", "num_sample", "--num_sample is not a knob of this config and would change nothing; did you mean "
         "--num_samples?"),
        ("train", "sampler_steps", "did you mean --num_inference_steps?"),
        ("inference_segmentation", "patch_size", "did you mean --inference_patch_size?"),
        ("train", "xyz", "--xyz is not a knob of this config and would change nothing; its knobs are listed at its "
         "top"),
    ],
)  # fmt: skip
def test_a_knob_that_the_config_does_not_have_is_refused(names, typed, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", [MONAI, "run", f"--{typed}", "8"])
    with pytest.raises(RuntimeError) as raised:
        read(config(names, **{typed: 8}))
    assert message in chain(raised.value)


@pytest.mark.parametrize(
    ("names", "typed", "value"),
    [
        (["train", "segmentation"], "patch_size", [8, 8, 8]),
        ("inference", "dataset_dir", "/data"),  # MONAI's tools set it in every bundle
        ("inference", "preset", "base"),  # the weights decide it, but it may be given
        ("train", "train#trainer#max_epochs", 3),
        ("train", "num_workers", 2),
    ],
)
def test_a_knob_that_the_config_has_is_accepted(names, typed, value, monkeypatch):
    monkeypatch.setattr(sys, "argv", [MONAI, "run", f"--{typed}", str(value)])
    read(config(names, **{typed: value}))


def test_what_a_user_adds_in_an_overlay_is_accepted():
    read(config("train", note="nothing refers to this"))


@pytest.mark.parametrize("path", ["/data/study#1", "/data/study::1", "#", "/data/a@#b", "models/%#x"])
def test_a_path_that_a_config_rewrites_is_refused(path):
    with pytest.raises(ValueError, match=re.escape(f"output_dir={path} holds '#' or '::', which separate")):
        require_plain_paths({"bundle_root": ".", "output_dir": path})


@pytest.mark.parametrize("path", ["/data/a b", "/data/[x] (1)", "/Größe/脑", "a@b", "100%", "C:\\data", "~$x", None])
def test_any_other_path_is_accepted(path):
    require_plain_paths({"output_dir": path, "ckpt_dir": Path("/data/study#1")})  # no config rewrites a Path


@pytest.mark.parametrize(
    ("typed", "read"),
    [("2024_01", 202401), ("1e3", 1000.0), ("(x)", "x"), ("[a]", ["a"]), ("a,b", ("a", "b"))],
)
@pytest.mark.parametrize("form", ["--output_dir {}", "--output_dir={}", "--output-dir {}"])
def test_a_path_that_the_command_line_evaluates_as_python_is_refused(typed, read, form, monkeypatch):
    monkeypatch.setattr(sys, "argv", [MONAI, "run", *form.format(typed).split(" ")])
    with pytest.raises(ValueError, match=re.escape(f"--output_dir ./{typed}")):
        require_plain_paths({"output_dir": read})
    monkeypatch.setattr(sys, "argv", [MONAI, "run", *form.format(f"./{typed}").split(" ")])
    require_plain_paths({"output_dir": f"./{typed}"})


@pytest.mark.parametrize("typed", ["study#1", "out#"])
def test_a_comment_that_the_command_line_cut_off_is_refused(typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [MONAI, "run", "--ckpt_dir", typed])
    with pytest.raises(ValueError, match=re.escape(f"ckpt_dir={typed} holds '#'")):
        require_plain_paths({"ckpt_dir": typed.partition("#")[0]})


@pytest.mark.parametrize(
    ("typed", "read"), [("'a b'", "a b"), ("None", None), ("$@bundle_root + '/x'", "./x"), ("@bundle_root", ".")]
)
def test_a_path_that_was_meant_for_python_or_monai_is_accepted(typed, read, monkeypatch):
    monkeypatch.setattr(sys, "argv", [MONAI, "run", "--output_dir", typed])
    require_plain_paths({"output_dir": read})


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_path_of_every_config_is_checked(file):
    knobs = [k for k in yaml.safe_load(file.read_text()) if re.fullmatch(r"[a-z_]+_(dir|file|root)", k)]
    for knob in {*knobs} - {"data_dir"}:  # which is made from other knobs
        parser = ConfigParser({"imports": ["$import monai_idm"], "run": ["$monai_idm.check_paths()"], knob: "study#1"})
        with pytest.raises(RuntimeError) as raised:
            parser.get_parsed_content("run#0")
        assert f"{knob}=study::1 holds '#' or '::'" in chain(raised.value)


@pytest.mark.parametrize(
    "knob", ["bundle_root", "dataset_dir", "datalist_file", "class_file", "ckpt_dir", "output_dir"]
)
def test_a_training_refuses_a_path_before_it_writes(knob, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = workflow("train", "train", tmp_path, **{"ckpt_dir": str(tmp_path / "models"), knob: "study#1"})
    run.initialize()
    with pytest.raises(RuntimeError) as raised:
        run.run()
    assert f"{knob}=study::1 holds '#' or '::'" in chain(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_tool_that_skips_run_meets_the_refusal_at_the_checkpoints():
    with pytest.raises(ValueError, match="ckpt_dir=/bundles/a::1/models holds"):
        TrainingCheckpoint("/bundles/a::1/models", {})


def test_the_command_line_refuses_a_folder_with_a_comment_in_its_name(tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(CONFIGS / "train.yaml")]
    done = subprocess.run(
        [*command, "--bundle_root", str(CONFIGS.parent), "--output_dir", "study#1"],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ValueError: output_dir=study#1 holds '#' or '::'")
    assert not list(tmp_path.iterdir())
