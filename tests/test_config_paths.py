"""A path in a config is the path that the user gave, or is refused before anything is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from monai_idm import require_plain_paths
from monai_idm.handlers import TrainingCheckpoint
from tests.bundle.workspace import CONFIGS, chain, workflow

MONAI = "/anywhere/monai/bundle/__main__.py"


@pytest.mark.parametrize("path", ["/data/study#1", "/data/study::1", "#", "/data/a@#b", "models/%#x"])
def test_a_path_that_a_config_rewrites_is_refused(path):
    with pytest.raises(ValueError, match=re.escape(f"output_dir={path} holds '#' or '::', which separate")):
        require_plain_paths({"bundle_root": ".", "output_dir": path})


@pytest.mark.parametrize("path", ["/data/a b", "/data/[x] (1)", "/Größe/脑", "a@b", "100%", "C:\\data", "~$x", None])
def test_any_other_path_is_taken(path):
    require_plain_paths({"output_dir": path, "ckpt_dir": Path("/data/study#1")})  # a Path is no text, and stays


@pytest.mark.parametrize(
    ("typed", "read"),
    [("2024_01", 202401), ("1e3", 1000.0), ("(x)", "x"), ("[a]", ["a"]), ("a,b", ("a", "b"))],
)
@pytest.mark.parametrize("form", ["--output_dir {}", "--output_dir={}", "--output-dir {}"])
def test_what_the_command_line_takes_for_python_is_refused(typed, read, form, monkeypatch):
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
def test_what_was_meant_for_python_or_monai_is_taken(typed, read, monkeypatch):
    monkeypatch.setattr(sys, "argv", [MONAI, "run", "--output_dir", typed])
    require_plain_paths({"output_dir": read})


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


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_path_of_every_config_is_checked(file):
    config = yaml.safe_load(file.read_text())
    checked = {key.removeprefix("paths#") for key in config if key.startswith("paths#")} | set(config.get("paths", ()))
    if file.stem != "train" and "paths" not in config:  # an overlay on train.yaml
        checked |= set(yaml.safe_load((CONFIGS / "train.yaml").read_text())["paths"])
    knobs = {key for key in config if re.fullmatch(r"[a-z_]+_(dir|file|root)", key)} - {"data_dir"}
    assert knobs <= checked
    if "run" in config:  # not initialize, which tools call that want the network alone, from anywhere
        assert config["run"][1] == "$monai_idm.require_plain_paths(@paths)"  # after words are read


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
