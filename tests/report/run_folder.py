"""A folder of a run as the page finds it, and a reader of the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from monai_idm.checkpoints import PHANTOM, RunRecord, sign
from monai_idm.networks import PRESETS
from monai_idm.schedulers import StridedDDPMScheduler
from monai_idm.tasks import Generation

PSNR = {"mean": 26.512345678901234, "sd": 0.5, "n": 8, "ci95": [26.25, 26.75]}


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
