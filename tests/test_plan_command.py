"""``python -m idm_bundle plan``: what it says fits is what a training would find."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch

from idm_bundle import plan as command
from idm_bundle.__main__ import main
from idm_bundle.benchmark.row import Row, write_rows
from idm_bundle.plan import Option, plan
from idm_bundle.studies.configs import configured
from monai_idm.meters import optimizer_bytes
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.plan import SHARES, plan_activations

SIZE = (32, 32, 32)
TOY = {"channels": (32, 64), "num_res_blocks": 1, "attention_levels": (False, False), "embedding_channels": 8}


def plan_one(card_gb, preset="light", **options):
    (option,) = plan(card_gb, SIZE, preset, 2, **options)
    return option


def test_a_card_has_room_for_what_it_says_and_for_no_more(capsys, monkeypatch):
    monkeypatch.setitem(command.PRESETS, "toy", TOY)
    roomy = plan_one(100, "toy")
    most, least = roomy.card_bytes / 1e9, roomy.least_bytes / 1e9
    assert plan_one(most + 1e-6, "toy").stored == 2
    partly = plan_one(most - 1e-6, "toy")
    assert partly.stored < 2
    assert partly.card_bytes < most * 1e9
    assert plan_one(least + 1e-6, "toy").way == command._WAYS[-1]
    capsys.readouterr()
    with pytest.raises(ValueError, match=f"the least is {least:.1f} GB, for toy on 32 x 32 x 32"):
        plan_one(least - 1e-6, "toy")
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gb", "way"),
    [
        (100, "train.yaml"),
        (0.053, "native.yaml"),
        (0.0487, "native.yaml, host"),
    ],
)
def test_the_command_starts_that_network_with_that_optimizer_and_memory(gb, way, tmp_path, monkeypatch):
    monkeypatch.setitem(command.PRESETS, "toy", TOY)
    option = plan_one(gb, "toy")
    assert option.way.name == way
    words = shlex.split(option.command.replace("DIR", str(tmp_path)))
    assert words[:5] == ["python", "-m", "monai.bundle", "run", "training"]
    overlays = ["native"] if "native.yaml" in words[words.index("--config_file") + 1] else []
    values = {name.removeprefix("--"): text for name, text in zip(words[7::2], words[8::2], strict=True)}
    values |= {name: json.loads(text) for name, text in values.items() if text[0] in "[0123456789" or text == "true"}
    config = configured(values, *overlays)
    network = config.get_parsed_content("network")
    assert network.arguments == InvertibleDiffusionUNet.from_preset("toy").arguments
    assert config.get_parsed_content("spatial_size") == [*SIZE]
    assert config.get_parsed_content("batch_size") == 2
    assert config.get_parsed_content("zoom") is True
    if option.way.overlay == "native.yaml":
        pytest.importorskip("bitsandbytes")
    optimizer = config.get_parsed_content("optimizer")
    network.optimizer_bytes = optimizer_bytes(optimizer)
    network.precision = "mixed"
    policies = plan_activations(network, (2, 2, *SIZE), SHARES["cuda"] * gb * 1e9 / 2**30).policies
    assert policies.count("stored") == option.stored


def test_the_largest_volume_comes_first_then_the_largest_network(capsys, monkeypatch):
    def option(budget_bytes, *asked):
        return Option(*asked, least_bytes=0, way=None if asked[0] == "paper" else command._WAYS[0])

    monkeypatch.setattr(command, "_option", option)
    assert len(plan(100)) == 3 * (2 + 3 * 2)
    best = capsys.readouterr().out.splitlines()[-1]
    assert '--preset base --spatial_size "[256, 256, 192]" --bookend_stride 1' in best


def test_seconds_and_days_follow_from_what_was_measured_on_the_card(tmp_path, capsys):
    rows = [Row(suite="speed", case=str(n), device="a card", network="light", flops=n, step_s=s) for n, s in
            ((10**12, 1.0), (10**11, 9.0))]  # fmt: skip
    write_rows([*rows, Row(suite="verify", case="law", device="a card", value=0.0, bar=1.0)], tmp_path / "rows.jsonl")
    option = plan_one(100, cases=400, rows=tmp_path / "rows.jsonl")
    line = capsys.readouterr().out.splitlines()[2].split()
    step_s = option.step_flops / 1e12
    assert line[-2:] == [f"{step_s:.2f}", f"{500 * 200 * step_s / 86400:.1f}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "sees no CUDA device; say how much memory the card has: --card_gb 8"),
        (
            ["--card_gb", "8", "--spatial_size", "30", "32", "32", "--preset", "light"],
            "30 x 32 x 32: .* multiples of 8",
        ),
        (["--card_gb", "0"], "--card_gb 0.0: "),
        (["--card_gb", "8", "--batch_size", "0"], "--batch_size 0: "),
        (["--card_gb", "8", "--cases", "-1"], "--cases -1: "),
        (["--card_gb", "8", "--spatial_size", "0", "64", "64"], "0 x 64 x 64: "),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["plan", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)
