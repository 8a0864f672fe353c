"""The accumulated metrics against the single ones, and the statistics against Python's own."""

import json
import math
import statistics

import pytest
import torch

from monai_idm.metrics import ReconstructionMetrics, best_gaussian_blur, mae, psnr, rmse, ssim3d
from monai_idm.metrics.volume import CountedMask
from tests.distributed.two_processes import meet, run_two

SIZE = (10, 12, 9)
MODALITIES = ("t1", "t2")


def make_case(seed):
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(2, *SIZE, generator=generator)
    noise = torch.randn(2, *SIZE, generator=generator)
    mask = torch.zeros(1, *SIZE)
    mask[:, 2:8, 3:9, 2:7] = 1
    return {
        "pred": (reference + (0.02 + 0.03 * seed) * noise).clamp(0, 1),
        "reference": reference,
        "mask": mask,
        "noisy": reference + 0.3 * noise,
        "noise": noise,
        "predicted_noise": noise * 0.9,
        "one_step": reference + 0.1 * noise,
    }


def accumulated(count, **options):
    metrics = ReconstructionMetrics(MODALITIES, **options)
    for seed in range(count):
        metrics.update(f"case{seed}", **make_case(seed))
    return metrics


def test_the_mask_of_a_case_is_counted_once_for_volumes_and_once_for_windows(monkeypatch):
    counts = []
    count = CountedMask.narrow
    monkeypatch.setattr(CountedMask, "narrow", lambda self, *args: counts.append(args) or count(self, *args))
    accumulated(1)
    assert len(counts) == 2


def test_rows_hold_what_the_single_metrics_say():
    metrics = accumulated(2)
    rows = metrics.rows()
    assert len(rows) == 2 * 2 * (2 * 3 + 1)  # cases, modalities, regions by methods and noise
    for row in rows:
        case = make_case(row["case"])
        c = MODALITIES.index(row["modality"])
        assert row["subject"] == f"case{row['case']}"
        if row["space"] == "noise":
            pair = case["predicted_noise"], case["noise"]
            assert (row["mae"], row["rmse"]) == (mae(*pair)[c].item(), rmse(*pair)[c].item())
            assert (row["psnr"], row["ssim"], row["region"]) == (None, None, "whole")
            continue
        blurred, sigma = best_gaussian_blur(case["noisy"], case["reference"], case["mask"])
        one_step = case["one_step"].clamp(0, 1)
        made = {"reconstruction": case["pred"], "gaussian_blur": blurred, "one_step": one_step}[row["method"]]
        inside = case["mask"] if row["region"] == "brain" else None
        for name, metric in (("psnr", psnr), ("ssim", ssim3d), ("mae", mae)):
            expected = metric(made, case["reference"], inside)[c].item()
            assert row[name] == pytest.approx(expected, rel=1e-6)
        is_blur = row["method"] == "gaussian_blur"
        assert row["sigma_voxels"] == (sigma[c].item() if is_blur else None)


def test_the_summary_is_mean_sd_and_n_over_the_cases_and_the_best_batch_apart():
    metrics = accumulated(5)
    summary = metrics.summary()
    assert summary["cases"] == 5
    for metric, best in (("psnr", max), ("ssim", max), ("mae", min)):
        values = [
            row[metric]
            for row in metrics.rows()
            if (row["modality"], row["region"], row["method"], row["space"])
            == ("t2", "brain", "reconstruction", "image")
        ]
        found = summary["image"]["t2"]["brain"]["reconstruction"][metric]
        assert found["mean"] == pytest.approx(statistics.mean(values))
        assert found["sd"] == pytest.approx(statistics.stdev(values))
        assert found["n"] == 5
        pairs = [statistics.mean(values[0:2]), statistics.mean(values[2:4])]  # the fifth has no partner
        low, high = found["ci95"]
        assert min(values) < low < found["mean"] < high < max(values)
        assert found["best_batch_of_2"] == pytest.approx(best(pairs))


def test_one_case_has_no_sd_and_no_batch_of_two():
    found = accumulated(1).summary()["noise"]["t1"]["whole"]["reconstruction"]["rmse"]
    assert (found["sd"], found["n"], found["best_batch_of_2"]) == (None, 1, None)
    single = accumulated(1, paper_batch_size=1).summary()["image"]["t1"]["whole"]["reconstruction"]["psnr"]
    assert single["best_batch_of_1"] == single["mean"]


def test_a_perfect_case_is_infinite_and_has_no_sd():
    metrics = ReconstructionMetrics(MODALITIES)
    for seed in range(2):
        case = make_case(seed)
        metrics.update("same", case["reference"], case["reference"], case["mask"])
    found = metrics.summary()["image"]["t1"]["brain"]["reconstruction"]["psnr"]
    assert (found["mean"], found["sd"]) == (math.inf, None)
    assert "inf" in metrics.table()


def test_scalars_are_the_means_by_flat_names():
    metrics = accumulated(3)
    scalars, image = metrics.scalars(), metrics.summary()["image"]
    assert scalars["psnr_t1_brain"] == image["t1"]["brain"]["reconstruction"]["psnr"]["mean"]
    assert scalars["one_step_mae_t2_brain"] == image["t2"]["brain"]["one_step"]["mae"]["mean"]
    assert scalars["blur_ssim_t2_whole"] == image["t2"]["whole"]["gaussian_blur"]["ssim"]["mean"]
    assert scalars["psnr_brain"] == pytest.approx((scalars["psnr_t1_brain"] + scalars["psnr_t2_brain"]) / 2)
    blur = (scalars["blur_psnr_t1_brain"] + scalars["blur_psnr_t2_brain"]) / 2
    assert scalars["psnr_brain_gain_over_blur"] == pytest.approx(scalars["psnr_brain"] - blur)
    assert scalars["noise_mae_t1"] == metrics.summary()["noise"]["t1"]["whole"]["reconstruction"]["mae"]["mean"]
    assert all(isinstance(value, float) for value in scalars.values())


def test_without_noisy_and_noise_there_is_no_blur_and_no_noise_space():
    case = make_case(0)
    metrics = ReconstructionMetrics(MODALITIES)
    metrics.update("a", case["pred"], case["reference"], case["mask"])
    metrics.update("b", case["pred"], case["reference"], case["mask"], noise=case["noise"])
    assert {row["method"] for row in metrics.rows()} == {"reconstruction"}
    assert {row["space"] for row in metrics.rows()} == {"image"}
    assert not [name for name in metrics.scalars() if "blur" in name or "noise" in name]


def test_reset_forgets():
    metrics = accumulated(1)
    metrics.reset()
    assert (metrics.rows(), metrics.scalars(), metrics.summary()["cases"]) == ([], {}, 0)
    assert "no case was evaluated" in metrics.table()


def test_the_table_is_aligned_fits_and_says_what_it_shows():
    metrics = ReconstructionMetrics(("modality", "t2"))  # a name of eight letters
    for seed in range(4):
        metrics.update(f"case{seed}", **make_case(seed))
    table = metrics.table()
    lines = table.splitlines()
    assert max(map(len, lines)) <= 110
    head = next(line for line in lines if "PSNR [dB]" in line)
    first = next(line for line in lines if line.startswith("modality  brain   reconstruction"))
    low, high = metrics.summary()["image"]["modality"]["brain"]["reconstruction"]["psnr"]["ci95"]
    assert f"{low:.2f}..{high:.2f}" in first
    psnr_at = head.index("PSNR [dB]")
    mean = metrics.summary()["image"]["modality"]["brain"]["reconstruction"]["psnr"]["mean"]
    assert first[psnr_at:].startswith(f"{mean:.2f} ± ")
    for note in (
        "4 cases",
        "data range 1",
        "inside the brain mask",
        "7^3",
        "standard deviations of the noise",
        "one_step: the image",
    ):
        assert note in table
    assert "best_batch_of_2 (as in the paper, optimistic)" in table


def test_the_data_range_enters_psnr_ssim_and_the_blurs_clipping():
    case = make_case(1)
    wide = ReconstructionMetrics(MODALITIES, data_range=4.0)
    keys = ("pred", "reference", "noisy", "one_step")
    wide.update("x", mask=case["mask"], **{key: 4 * case[key] for key in keys})
    narrow = ReconstructionMetrics(MODALITIES)
    narrow.update("x", mask=case["mask"], **{key: case[key] for key in keys})
    for a, b in zip(wide.rows(), narrow.rows(), strict=True):
        assert a["psnr"] == pytest.approx(b["psnr"], abs=1e-3)
        assert a["ssim"] == pytest.approx(b["ssim"], abs=1e-4)
        assert a["mae"] == pytest.approx(4 * b["mae"], rel=1e-4)


def test_summary_and_rows_are_plain_json():
    metrics = accumulated(2)
    json.dumps([metrics.summary(), metrics.rows()], allow_nan=False)


def gathered(rank, folder):
    meet(folder, rank)
    metrics = ReconstructionMetrics(MODALITIES)
    for seed in ((0, 2), (1, 0))[rank]:  # three cases dealt out to two processes: the first is repeated
        metrics.update(f"case{seed}", **make_case(seed))
    metrics.gather()
    torch.save(metrics.rows(), folder / f"{rank}.pt")


def test_processes_pool_their_cases_in_order_and_count_repeated_ones_once(tmp_path):
    run_two(gathered, tmp_path)
    assert torch.load(tmp_path / "0.pt") == torch.load(tmp_path / "1.pt") == accumulated(3).rows()


def test_gather_without_a_process_group_changes_nothing():
    metrics = accumulated(2)
    before = metrics.rows()
    metrics.gather()
    assert metrics.rows() == before


@pytest.mark.parametrize("modalities", [(), ("t1", "t1")])
def test_modalities_are_named_once_each(modalities):
    with pytest.raises(ValueError, match="name each channel once"):
        ReconstructionMetrics(modalities)


def test_a_batch_has_a_case():
    with pytest.raises(ValueError, match="a number of cases, 1 or more"):
        ReconstructionMetrics(MODALITIES, paper_batch_size=0)


def test_channels_are_the_modalities():
    case = make_case(0)
    with pytest.raises(ValueError, match=r"case7: .* must be the 3 modalities"):
        ReconstructionMetrics(("t1", "t2", "flair")).update("case7", **case)
