"""Nothing is fetched and nothing is sent."""

from __future__ import annotations

import json
import subprocess
import sys

from idm_bundle.studies.configs import SMALLEST
from tests.bundle.workspace import CONFIGS, TINY

# reports every connection of the process and its children, by Python's audit hook; the last one is made on purpose
PROGRAM = """
import json, os, socket, sys

def watch(event, args):
    local = event == "socket.connect" and args[0].family == socket.AF_UNIX  # between data workers, for example
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and not local:
        os.write(report, f"{event} {args[1:]}\\n".encode())

report = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(watch)
from monai.bundle import run
import bitsandbytes, idm_bundle, monai_idm
for values in json.loads(sys.argv[2]):
    run(values.pop("run_id"), **values)
socket.socket().connect_ex(("127.0.0.1", 9))
"""


def test_training_evaluation_and_sampling_open_no_connection(tmp_path):
    places = {"bundle_root": str(CONFIGS.parent), "output_dir": str(tmp_path / "output")}
    values = {**TINY, **SMALLEST, **places, "ckpt_dir": str(tmp_path / "models"), "num_workers": 1, "max_epochs": 1}
    sampling = {"ckpt_file": str(tmp_path / "models" / "model.pt"), "num_inference_steps": 2, **places}
    train, evaluate, inference = (str(CONFIGS / f"{name}.yaml") for name in ("train", "evaluate", "inference"))
    runs = [
        {"run_id": "training", "config_file": train, **values},
        {"run_id": "evaluating", "config_file": [train, evaluate], **values},
        {"run_id": "inference", "config_file": inference, "device": values["device"], **sampling},
    ]
    report = tmp_path / "connections.txt"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(report), json.dumps(runs)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "output").glob("sample_*.nii.gz"))
    assert report.read_text().splitlines() == ["socket.connect (('127.0.0.1', 9),)"]
