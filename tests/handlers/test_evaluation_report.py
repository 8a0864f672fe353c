"""The report of a small evaluator against the metrics object fed by hand."""

import csv
import json
import logging

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.handlers import CheckpointSaver, StatsHandler
from monai.transforms import Lambdad

from monai_idm.handlers import EvaluationReport
from monai_idm.metrics import ReconstructionMetrics

from .evaluators import MODALITIES, make_evaluator, make_item, reconstruct


def expected_metrics(count=3, **options):
    metrics = ReconstructionMetrics(MODALITIES, **options)
    for number in range(count):
        item = make_item(number)
        noise = torch.ones_like(item["image"]) / 4
        noisy = item["image"] + noise
        mask = (item["image"] != 0).any(0, keepdim=True)
        metrics.update(item["subject"], noisy / 2, item["image"], mask, noisy, noise, noise / 2)
    return metrics


def make_report(output_dir=None, **options):
    return EvaluationReport(ReconstructionMetrics(MODALITIES), output_dir, **options)


def test_scalars_are_those_of_metrics_fed_by_hand():
    evaluator = make_evaluator([make_report()])
    evaluator.run(7)
    assert evaluator.state.metrics == pytest.approx(expected_metrics().scalars())
    for name in ("psnr_t1_brain", "ssim_t2_whole", "mae_t1_brain", "blur_psnr_t1_brain", "noise_mae_t1"):
        assert name in evaluator.state.metrics
    assert evaluator.state.metrics["noise_mae_t1"] == pytest.approx(0.125)


def test_every_run_starts_from_zero():
    report = make_report()
    evaluator = make_evaluator([report])
    evaluator.run(1)
    evaluator.run(2)
    assert report.metrics.summary()["cases"] == 3


def test_json_and_csv_hold_summary_and_cases(tmp_path):
    make_evaluator([make_report(tmp_path / "made", prefix="validation")]).run(7)
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == [
        "validation.csv",
        "validation.json",
    ]
    written = json.loads((tmp_path / "made" / "validation.json").read_text())
    expected = expected_metrics()
    assert written["epoch"] == 7
    assert written["summary"] == json.loads(json.dumps(expected.summary()))
    assert written["cases"] == expected.rows()
    with (tmp_path / "made" / "validation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["subject"] for row in rows] == [row["subject"] for row in expected.rows()]
    assert float(rows[0]["psnr"]) == expected.rows()[0]["psnr"]
    assert {row["psnr"] for row in rows if row["space"] == "noise"} == {""}


def test_what_is_not_finite_is_null_in_json_and_inf_in_the_metrics(tmp_path):
    def equal(engine, batch):
        reconstruct(engine, batch)
        for item in engine.state.output:
            item["pred"] = item["image"]
        return engine.state.output

    evaluator = make_evaluator([make_report(tmp_path)], iteration=equal)
    evaluator.run(1)
    assert evaluator.state.metrics["psnr_brain"] == float("inf")
    written = json.loads((tmp_path / "reconstruction.json").read_text(), parse_constant=pytest.fail)
    assert written["summary"]["image"]["t1"]["brain"]["reconstruction"]["psnr"]["mean"] is None


def test_files_of_the_last_run_stay_whole_when_writing_fails(tmp_path, monkeypatch):
    report = make_report(tmp_path)
    make_evaluator([report]).run(1)
    before = (tmp_path / "reconstruction.json").read_text()
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_evaluator([report]).run(2)
    assert (tmp_path / "reconstruction.json").read_text() == before
    assert len(list(tmp_path.iterdir())) == 2  # no unfinished file is left


def test_the_table_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="monai_idm"):
        make_evaluator([make_report()]).run(7)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("monai_idm")]
    assert message == f"epoch 7\n{expected_metrics().table()}"


def test_handlers_after_it_see_the_scalars(tmp_path):
    net = torch.nn.Linear(1, 1)
    saver = CheckpointSaver(str(tmp_path), {"network": net}, save_key_metric=True, key_metric_name="psnr_brain")
    stats = StatsHandler(iteration_log=False)
    make_evaluator([make_report(), saver, stats]).run(1)
    score = expected_metrics().scalars()["psnr_brain"]
    assert [file.name for file in tmp_path.iterdir()] == [f"network_key_metric={score:.4f}.pt"]


@pytest.mark.parametrize("listed", [False, True])
def test_it_serves_as_the_evaluators_key_metric(listed):
    report = make_report()
    seen = []

    class Before:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(e.state.best_metric))

    handlers = [Before(), report] if listed else [Before()]
    evaluator = make_evaluator(handlers, key_val_metric={"psnr_brain": report})
    evaluator.run(4)
    assert report.metrics.summary()["cases"] == 3  # attached once
    assert seen == [evaluator.state.metrics["psnr_brain"]]
    assert evaluator.state.best_metric_epoch == 4
    assert evaluator.state.key_metric_name == "psnr_brain"


def test_a_key_metric_that_is_not_a_scalar_is_refused():
    evaluator = make_evaluator([], key_val_metric={"psnr_flair_brain": make_report()})
    with pytest.raises(ValueError, match=r"'psnr_flair_brain' is not one of .*'psnr_t1_brain'"):
        evaluator.run(1)


def test_postprocessed_items_count_and_optional_ones_may_be_absent():
    def bare(engine, batch):
        reconstruct(engine, batch)
        engine.state.output = [{key: item[key] for key in ("image", "pred")} for item in engine.state.output]
        return engine.state.output

    report = make_report()
    make_evaluator([report], iteration=bare).run(1)
    assert {(row["method"], row["space"]) for row in report.metrics.rows()} == {("reconstruction", "image")}

    doubled = make_report()
    make_evaluator([doubled], postprocessing=Lambdad("pred", lambda x: x * 2)).run(1)
    assert doubled.metrics.rows()[0]["mae"] == pytest.approx(0.25)


def test_mask_and_subject_come_from_the_batch_or_are_made_up():
    items = [make_item(number) for number in range(2)]
    for item in items:
        item["mask"] = torch.ones_like(item["image"][:1])
    evaluator = make_evaluator([make_report()], items)
    evaluator.run(1)
    scalars = evaluator.state.metrics
    assert scalars["mae_t1_brain"] == pytest.approx(scalars["mae_t1_whole"])  # the mask given is everything

    items = [{"image": MetaTensor(make_item(number)["image"])} for number in range(3)]
    report = make_report()
    make_evaluator([report], items).run(1)
    names = list(dict.fromkeys(row["subject"] for row in report.metrics.rows()))
    assert names == ["case_0_1_0", "case_0_1_1", "case_0_2_0"]


def test_the_output_goes_before_the_batch():
    items = [make_item(number) | {"pred": torch.zeros(1), "noisy": torch.zeros(1)} for number in range(3)]
    evaluator = make_evaluator([make_report()], items)
    evaluator.run(1)
    assert evaluator.state.metrics == pytest.approx(expected_metrics().scalars())


def test_a_case_without_reconstruction_is_refused():
    def forgetful(engine, batch):
        reconstruct(engine, batch)
        for item in engine.state.output:
            del item["pred"]
        return engine.state.output

    with pytest.raises(ValueError, match=r"case0: neither output nor batch holds \['pred'\], only .*'image'"):
        make_evaluator([make_report()], iteration=forgetful).run(1)


def test_an_evaluator_that_does_not_decollate_is_refused():
    with pytest.raises(TypeError, match="construct the evaluator with decollate=True"):
        make_evaluator([make_report()], decollate=False).run(1)
