"""Trainings that fail for real, as a user starts them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

from tests.bundle.workspace import CONFIGS, TINY

# at most some memory more than what imports took
PROGRAM = """
import json, resource, sys
import torch
from monai.bundle import run
import monai_idm
values, room = json.loads(sys.argv[1]), int(sys.argv[2])
if room:
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room,) * 2)
run("training", **values)
"""


def train(folder, room=0, **changes):
    values = {
        "config_file": str(CONFIGS / "train.yaml"), "bundle_root": str(CONFIGS.parent),
        "output_dir": str(folder / "output"), "ckpt_dir": str(folder / "models"), **TINY, **changes,
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, json.dumps(values), str(room)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_a_training_that_runs_out_of_memory_ends_with_advice_and_a_code_of_its_own(tmp_path):
    size = {"demo#spatial_size": [96, 96, 64], "batch_size": 4, "activations": "stored", "num_workers": 0}
    done = train(tmp_path, room=3_000_000_000, **size)
    assert done.returncode == 4, done.stderr
    said = done.stderr[done.stderr.index("OutOfMemory: out of memory in iteration 1") :]
    assert "A step on 4 x 2 x 96 x 96 x 64" in said
    assert "--activations rebuilt" in said
    assert "--batch_size 1" in said
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "models").glob("*"))


def test_a_training_whose_loss_is_no_number_ends_before_it_changes_the_weights(tmp_path):
    loss = "$lambda prediction, target: (prediction - target).mean() / 0 * 0"
    done = train(tmp_path, **{"train#loss": loss})
    assert done.returncode == 5, done.stderr
    assert "BadNumbers: iteration 1: the loss is nan; cases PHANTOM_" in done.stderr.splitlines()[-1]
    with (tmp_path / "output" / "bad_steps.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["cases"].count("PHANTOM_") == 2
    assert not list((tmp_path / "models").glob("*"))
