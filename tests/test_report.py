"""The page of a run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from idm_bundle.__main__ import main
from idm_bundle.report import report
from monai_idm.checkpoints import PHANTOM, RunRecord
from monai_idm.schedulers import StridedDDPMScheduler
from monai_idm.tasks import Generation

PSNR = {"mean": 26.5, "sd": 0.5, "n": 8, "ci95": [26.25, 26.75]}


def run(folder: Path) -> Path:
    """What a training and an evaluation leave, in little."""
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


class Reader(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_page_shows_curves_tables_pictures_and_settings(tmp_path):
    folder = run(tmp_path / "output")
    linear = torch.nn.Linear(1, 1)
    record = RunRecord(Generation(["t1"]), [StridedDDPMScheduler(100, "cosine")], seed=7)
    record.describe_data(PHANTOM, 64, [32, 32, 32], 5.0)
    torch.save(record.sign(linear).state_dict(), tmp_path / "model.pt")
    page = Reader(report(folder, tmp_path / "model.pt").read_text())
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 3
    assert tags.count("img") == 2  # of the montages the newest
    settings = ("taskgeneration", "seed7", "schedulecosine", "no patient's data")
    for said in ("26.5 ± 0.5 [26.25, 26.75]", "image, t1, brain, <blur>", "cases 8", *settings):
        assert said in page.text
    assert "montage_epoch0002.png" in page.text
    assert "montage_epoch0001.png" not in page.text


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
    with pytest.raises(FileNotFoundError, match="give a training's output_dir"):
        report(tmp_path)
    assert not list(tmp_path.iterdir())
    run(tmp_path / "output")
    assert main(["report", str(tmp_path / "output"), "--weights", str(tmp_path / "none.pt")]) == 1
    assert "no weights at" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "output"), "--file", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()
