"""Training runs that really fail, started as a user does."""

from __future__ import annotations

import csv
import json
import os

import pytest

from idm_bundle.studies.configs import SMALLEST
from monai_idm.data import write_phantoms
from tests.bundle.workspace import CONFIGS, TINY
from tests.programs import Programs

IMPORTS = """
import json, resource, sys
import torch
from monai.bundle import run
import monai_idm
"""
PROGRAM = """
values, room, largest_file = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if room:
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room,) * 2)
if largest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file,) * 2)
run("training", **values)
"""


@pytest.fixture(scope="module")
def programs():
    with Programs(IMPORTS) as programs:
        yield programs


@pytest.fixture
def train(programs, tmp_path):
    """Trains in tmp_path, with limits in bytes on memory beyond the imports and on the size of a file."""

    def run(room=0, largest_file=0, **changes):
        values = {
            "config_file": str(CONFIGS / "train.yaml"), "bundle_root": str(CONFIGS.parent),
            "output_dir": str(tmp_path / "output"), "ckpt_dir": str(tmp_path / "models"),
            **TINY, **SMALLEST, "demo#spatial_size": [8, 8, 8], **changes,
        }  # fmt: skip
        return programs.run(PROGRAM, tmp_path, json.dumps(values), str(room), str(largest_file))

    return run


def test_a_training_that_runs_out_of_memory_ends_with_advice_and_a_code_of_its_own(train, tmp_path):
    size = {"demo#spatial_size": [64, 64, 64], "batch_size": 4, "activations": "stored"}
    done = train(room=800_000_000, **size)
    assert done.returncode == 4, done.stderr
    message = done.stderr[done.stderr.index("OutOfMemory: out of memory in iteration 1") :]
    assert "for a step on 4 x 2 x 64 x 64 x 64" in message
    assert "--activations rebuilt" in message
    assert "--batch_size 1" in message
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "models").glob("*"))


def test_a_training_whose_loss_is_nan_ends_before_it_changes_the_weights(train, tmp_path):
    loss = "$lambda prediction, target: (prediction - target).mean() / 0 * 0"
    done = train(**{"train#loss": loss})
    assert done.returncode == 5, done.stderr
    assert "BadNumbers: iteration 1: the loss is nan; cases PHANTOM_" in done.stderr.splitlines()[-1]
    with (tmp_path / "output" / "bad_steps.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["cases"].count("PHANTOM_") == 2
    assert not list((tmp_path / "models").glob("*"))


def test_a_full_disk_ends_a_training_and_leaves_what_was_written_before(train, tmp_path):
    assert train(**{"demo#max_epochs": 1}).returncode == 0
    before = {file: file.read_bytes() for file in (tmp_path / "models").iterdir()}
    done = train(largest_file=100_000, resume=True)  # a checkpoint is larger
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("OSError: ")
    assert "model.pt" in last or "checkpoint_epoch=2.pt" in last
    assert "Make room on that disk, then run again (training with --resume true)" in last
    assert {file: file.read_bytes() for file in (tmp_path / "models").iterdir()} == before


def test_a_worker_that_hangs_ends_a_training(train):
    # random: other transforms run only once, when data are cached
    hang = {"_target_": "RandLambdad", "keys": "image", "func": "$lambda x: __import__('time').sleep(99)"}
    done = train(**{"num_workers": 1, "worker_timeout": 1, "train#flip": hang})
    assert done.returncode == 1, done.stderr
    assert "timed out after 1 seconds" in done.stderr.splitlines()[-1]


def test_a_dataset_that_vanishes_ends_a_training_and_leaves_its_checkpoints(train, tmp_path):
    phantoms, checkpoint = (str(tmp_path / name) for name in ("output/phantoms", "models/checkpoint_epoch=1.pt"))
    vanish = f"__import__('shutil').rmtree('{phantoms}') if __import__('os').path.exists('{checkpoint}') else None"
    changes = {
        "train#flip": {"_target_": "RandLambdad", "keys": "image", "prob": 1, "func": f"$lambda x: ({vanish}, x)[1]"},
        "train#dataset": {
            "_target_": "Dataset", "data": "$@datalist['training']", "transform": "@train#preprocessing",
        },
    }  # fmt: skip
    done = train(**changes)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("FileNotFoundError: ")
    assert "PHANTOM_" in last
    assert "is missing; every file that the datalist names must exist" in last
    assert [file.name for file in (tmp_path / "models").glob("checkpoint*")] == ["checkpoint_epoch=1.pt"]


def test_one_damaged_file_of_many_ends_a_training_in_order(train, tmp_path):
    write_phantoms(tmp_path / "data", 20, (48, 48, 32), seed=0)
    damaged = sorted((tmp_path / "data").glob("*/*_t1.nii.gz"))[9]
    os.truncate(damaged, damaged.stat().st_size // 2)
    size = {"dataset_dir": str(tmp_path / "data"), "spatial_size": [8, 8, 8], "max_epochs": 1}
    for _ in range(3):  # threads of the cache are still computing: before the fix 17 of 18 runs aborted
        done = train(**size)
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"ValueError: cannot read {damaged} as NIfTI")
