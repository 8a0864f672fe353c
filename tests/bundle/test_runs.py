"""The bundle's configs run for real, at tiny size on phantoms."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from idm_bundle.studies.configs import SMALLEST
from monai_idm.checkpoints import read_checkpoint, read_record
from monai_idm.trained import TrainedModel
from tests.bundle.workspace import CONFIGS, TINY, chain, sample, train, workflow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(folder, activations="auto")
    return folder


def test_training_leaves_model_events_memory_table_and_montage(trained):
    output = trained / "output"
    record = read_record(trained / "models" / "model.pt")
    assert record["data"]["source"] == "phantom"
    assert record["data"]["spatial_size"] == [16, 16, 16]
    assert record["data"]["spacing_mm"] > 5
    assert sorted(f.name for f in (trained / "models").iterdir()) == [
        "checkpoint_epoch=1.pt",
        "checkpoint_epoch=2.pt",
        "model.pt",
    ]
    assert list((output / "tensorboard").glob("events*"))
    with (output / "memory.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    assert float(rows[0]["live_peak_gib"]) > 0
    assert (output / "montage_epoch0002.png").stat().st_size > 10_000
    table = json.loads((output / "validation.json").read_text())
    assert {row["modality"] for row in table["cases"]} == {"t1", "t2"}
    assert {row["method"] for row in table["cases"]} >= {"reconstruction", "gaussian_blur"}
    assert not list(trained.rglob("*unfinished*"))


@pytest.mark.parametrize(("epochs", "interval"), [(1, 10), (3, 2)])
def test_a_training_ends_with_the_weights_of_its_last_epoch_validated(epochs, interval, tmp_path):
    changes = {"demo#spatial_size": [8, 8, 8], "demo#max_epochs": epochs, "demo#val_interval": interval}
    train(tmp_path, **{**SMALLEST, **changes, "demo#epoch_length": 1})
    last = read_checkpoint(tmp_path / "models" / f"checkpoint_epoch={epochs}.pt")
    assert last["best"]["epoch"] in {*range(interval, epochs + 1, interval), epochs}
    assert (tmp_path / "models" / "model.pt").exists()
    assert (tmp_path / "output" / f"montage_epoch{epochs:04}.png").exists()


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, caplog):
    caplog.set_level("INFO")
    changes = {**SMALLEST, "demo#spatial_size": [8, 8, 8], "demo#max_epochs": 3, "demo#epoch_length": 3}
    changes["num_workers"] = 1
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, **changes)
    shutil.copytree(whole, stopped)
    (stopped / "models" / "checkpoint_epoch=3.pt").unlink()
    for table in (whole / "output").glob("*.csv"):
        (stopped / "output" / table.name).unlink()
    run = train(stopped, **changes, resume=True)
    assert "checkpoint_epoch=2.pt, epoch 2" in caplog.text
    assert run.parser.get_parsed_content("train#trainer").state.iteration == 9
    expected, found = (
        torch.load(folder / "models" / "checkpoint_epoch=3.pt", weights_only=True) for folder in (whole, stopped)
    )
    weights = expected["network"]
    assert all(torch.equal(found["network"][name], tensor) for name, tensor in weights.items())
    averages = expected["ema"]["weights"]
    assert all(torch.equal(found["ema"]["weights"][name], tensor) for name, tensor in averages.items())
    with (stopped / "output" / "memory.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["3"]


@pytest.mark.parametrize(
    ("begun", "recorded"),
    [
        ({"activations": "auto"}, True),
        ({"activations": "stored"}, True),
        ({"activations": "rebuilt", "precision": "float32"}, False),
    ],
    ids=["auto", "by name", "before auto"],
)
def test_a_training_resumes_as_it_began_whatever_memory_and_device_offer_now(begun, recorded, tmp_path, monkeypatch):
    def offer(free, bfloat16):
        monkeypatch.setattr("monai_idm.networks.plan.free_memory_bytes", lambda device: free)
        monkeypatch.setattr("monai_idm.networks.step_choices.has_bfloat16", lambda device: bfloat16)

    changes = {**SMALLEST, "demo#spatial_size": [8, 8, 8], "demo#max_epochs": 2, "demo#epoch_length": 2}
    changes["activations"] = "auto"
    offer(free=0, bfloat16=False)
    train(tmp_path, **{**changes, **begun})
    last, first = (tmp_path / "models" / f"checkpoint_epoch={epoch}.pt" for epoch in (2, 1))
    expected = read_checkpoint(last)["network"]
    last.unlink()
    if not recorded:  # as older versions wrote it
        content = read_checkpoint(first)
        del content["network"]._metadata[""]["choices"]
        torch.save(content, first)
    offer(free=2**50, bfloat16=True)
    run = train(tmp_path, **changes, resume=True)
    found = read_checkpoint(last)["network"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    network = run.parser.get_parsed_content("network")
    batch = torch.randn(2, 2, 8, 8, 8), torch.tensor([3, 700])
    anew = network.with_activations("auto")
    anew.resume_choices({})
    differ = [torch.equal(a, b) for a, b in zip(*(gradients_of(net, *batch) for net in (network, anew)), strict=True)]
    assert not all(differ)  # or the test would show nothing


def gradients_of(network, x, timesteps):
    network.zero_grad()
    network(x, timesteps).square().mean().backward()
    return [p.grad.clone() for p in network.parameters()]


def evaluate(folder):
    run = workflow(["train", "evaluate"], "train", folder, **{**TINY, "ckpt_dir": str(folder / "models")})
    run.initialize()
    run.run()


@pytest.fixture(scope="module")
def evaluated(trained):
    evaluate(trained)
    return trained


def test_evaluation_writes_reconstructions_on_the_grid_of_their_inputs(evaluated, trained):
    written = sorted((trained / "output" / "evaluation").glob("*_reconstruction.nii.gz"))
    assert len(written) == 2  # one case, two modalities
    for file in written:
        subject, modality = file.name.split("_t")[0], "t" + file.name.split("_t")[1][0]
        source = nib.load(trained / "output" / "phantoms" / subject / f"{subject}_{modality}.nii.gz")
        image = nib.load(file)
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
        window = np.percentile(source.get_fdata()[source.get_fdata() != 0], 99.5)
        assert image.get_fdata().min() >= -1e-3 * window
        assert image.get_fdata().max() <= window * (1 + 1e-5)
    assert json.loads((trained / "output" / "evaluation" / "reconstruction.json").read_text())["cases"]


def test_samples_are_compared_with_real_cases(trained):
    values = {**TINY, "ckpt_dir": str(trained / "models"), "num_samples": 3}
    run = workflow(["train", "evaluate_generation"], "train", trained, **values)
    run.initialize()
    run.run()
    output = trained / "output" / "generation"
    table = json.loads((output / "generation.json").read_text())
    assert table["summary"]["cases"] == 3
    assert set(table["summary"]["methods"]) == {"generated", "real"}
    assert {row["nearest_training_case"][:8] for row in table["cases"]} == {"PHANTOM_"}
    assert (output / "sample_000.png").stat().st_size > 10_000
    assert (output / "nearest_pair.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def sampled(trained, tmp_path_factory):
    return sample(trained, tmp_path_factory.mktemp("sampled"))


def test_sampling_writes_volumes_on_the_training_grid(trained, sampled):
    record = read_record(trained / "models" / "model.pt")
    files = sorted(sampled.glob("*.nii.gz"))
    assert [f.name for f in files] == [f"sample_00{i}_{m}.nii.gz" for i in (0, 1) for m in ("t1", "t2")]
    for file in files:
        image = nib.load(file)
        assert image.shape == (16, 16, 16)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms(), record["data"]["spacing_mm"], rtol=1e-6)
        np.testing.assert_allclose(image.affine @ [7.5, 7.5, 7.5, 1], [0, 0, 0, 1], atol=1e-4)
        assert 0 <= image.get_fdata().min() < image.get_fdata().max() <= 1
    assert {f.name for f in sampled.glob("*.png")} == {"sample_000.png", "sample_001.png"}


def test_the_same_seed_gives_bit_identical_training_evaluation_and_samples(evaluated, sampled, tmp_path):
    train(tmp_path)
    evaluate(tmp_path)
    weights, again = (torch.load(folder / "models" / "model.pt", weights_only=True) for folder in (evaluated, tmp_path))
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    tables = ["validation.csv", "evaluation/reconstruction.csv"]
    for table in tables:
        assert (evaluated / "output" / table).read_bytes() == (tmp_path / "output" / table).read_bytes()
    samples = [sorted(folder.glob("*.nii.gz")) for folder in (sampled, sample(tmp_path, tmp_path / "sampled"))]
    for one, other in zip(*samples, strict=True):
        assert np.array_equal(nib.load(one).get_fdata(), nib.load(other).get_fdata())


def test_another_seed_gives_another_training(trained, tmp_path):
    train(tmp_path, seed=1)
    weights, again = (torch.load(folder / "models" / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    assert not all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


def test_a_sample_depends_on_its_seed_and_not_on_the_others(trained, sampled, tmp_path):
    both = nib.load(sampled / "sample_001_t1.nii.gz").get_fdata()
    alone = sample(trained, tmp_path / "b", seed=1, num_samples=1) / "sample_001_t1.nii.gz"
    np.testing.assert_allclose(nib.load(alone).get_fdata(), both, atol=1e-5)


def test_noise_of_every_step_belongs_to_the_sample_too(trained, tmp_path):
    ddpm = {"sampler": "StridedDDPMScheduler"}
    both = nib.load(sample(trained, tmp_path / "a", **ddpm) / "sample_001_t1.nii.gz").get_fdata()
    alone = sample(trained, tmp_path / "b", seed=1, num_samples=1, **ddpm) / "sample_001_t1.nii.gz"
    np.testing.assert_allclose(nib.load(alone).get_fdata(), both, atol=1e-5)


def test_an_interrupted_sampling_is_resumed(trained, tmp_path, caplog):
    caplog.set_level("INFO")
    output = sample(trained, tmp_path, num_samples=1)
    first = (output / "sample_000_t1.nii.gz").stat().st_mtime_ns
    sample(trained, tmp_path, num_samples=3)
    assert (output / "sample_000_t1.nii.gz").stat().st_mtime_ns == first
    assert len(list(output.glob("sample_*_t2.nii.gz"))) == len(list(output.glob("sample_*.json"))) == 3
    sample(trained, tmp_path, num_samples=3)
    assert "3 of 3 samples are in" in caplog.text
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        sample(trained, tmp_path, num_samples=3, num_inference_steps=5)
    assert "other settings (num_inference_steps); give another output_dir" in chain(error.value)


def test_a_network_learns_classes_and_samples_one(tmp_path):
    table = tmp_path / "grades.csv"
    table.write_text("subject,class\n" + "".join(f"PHANTOM_{i:03d},{'LGG' if i % 2 else 'HGG'}\n" for i in range(5)))
    classes = ["HGG", "LGG"]
    run = train(tmp_path, classes=classes, class_file=str(table))
    network = run.parser.get_parsed_content("network")
    assert network.embedding.classes.weight.grad is not None
    first, second = (
        sample(tmp_path, tmp_path / name, classes=classes, class_name=name, num_samples=1) for name in classes
    )
    a, b = (nib.load(folder / "sample_000_t1.nii.gz").get_fdata() for folder in (first, second))
    assert not np.array_equal(a, b)
    sample(tmp_path, tmp_path / "both", num_samples=2)  # the weights record the classes: each in turn
    both = tmp_path / "both" / "output"
    assert [json.loads((both / f"sample_{i:03d}.json").read_text())["class_label"] for i in (0, 1)] == [0, 1]
    first = nib.load(both / "sample_000_t1.nii.gz").get_fdata()
    np.testing.assert_allclose(first, a, atol=1e-4)
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        sample(tmp_path, tmp_path / "c", num_samples=1, class_name="GBM")
    assert "class_name='GBM' is not one of classes=['HGG', 'LGG']" in chain(error.value)
    values = {**TINY, "ckpt_dir": str(tmp_path / "models"), "num_samples": 2, "evaluation_split": "validation"}
    evaluation = workflow(["train", "evaluate_generation"], "train", tmp_path, **values)  # without the file of classes
    evaluation.initialize()
    evaluation.run()
    assert json.loads((tmp_path / "output" / "generation" / "generation.json").read_text())["summary"]["cases"] == 2


def test_a_flow_is_trained_resumed_evaluated_and_sampled(tmp_path):
    train(tmp_path, prediction_type="flow", noise_shift=2.0)
    trained = TrainedModel(tmp_path / "models" / "model.pt", "generation")
    assert (trained["prediction_type"], trained["noise_shift"]) == ("flow", 2.0)
    run = train(tmp_path, prediction_type="flow", noise_shift=2.0, resume=True, **{"demo#max_epochs": 2})
    assert run.parser.get_parsed_content("train#step").timestep_power == 2
    evaluate(tmp_path)  # the weights say how they were trained
    output = sample(tmp_path, tmp_path / "samples", num_samples=1)
    assert json.loads((output / "sample_000.json").read_text())["settings"]["sampler"]
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        train(tmp_path, prediction_type="flow", resume=True, **{"demo#max_epochs": 3})
    assert "noise_shift: 2.0 in the checkpoint, 1.0 here" in chain(error.value)


def test_full_ddpm_sampling_takes_every_step(trained, tmp_path):
    overrides = {"num_inference_steps": None, "num_train_timesteps": 2000, "num_samples": 1}
    run = workflow("inference", "infer", tmp_path, ckpt_file=str(trained / "models" / "model.pt"), **overrides)
    run.initialize()
    inferer = run.inferer
    assert inferer.scheduler is None
    assert type(inferer.inferer.scheduler).__name__ == "StridedDDPMScheduler"
    assert len(inferer.inferer.scheduler.timesteps) == 2000


def test_weights_of_another_convention_or_network_are_refused(trained, tmp_path):
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        sample(trained, tmp_path, prediction_type="epsilon")
    assert "prediction_type: flow in the checkpoint, epsilon here" in chain(error.value)
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        sample(trained, tmp_path, preset="base")
    assert "preset: light in the checkpoint, base here" in chain(error.value)


def test_phantoms_do_not_replace_a_model_of_data(trained, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    weights._metadata[""]["record"]["data"]["source"] = "BraTS2020"
    torch.save(weights, models / "model.pt")
    before = (models / "model.pt").read_bytes()
    with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
        train(tmp_path)
    assert "cases of BraTS2020" in chain(error.value)
    assert (models / "model.pt").read_bytes() == before


def test_a_folder_without_cases_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (("absent", "absent"), ("empty", "empty")):
        with pytest.raises(Exception, match=r"Failed to (evaluate|instantiate)") as error:
            train(tmp_path, dataset_dir=str(tmp_path / folder))
        assert message in chain(error.value)


@pytest.mark.parametrize("place", ["above", "inside"])
def test_the_bundle_is_found_from_above_and_from_inside(place, tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1] if place == "above" else CONFIGS.parent)
    run = workflow("train", "train", tmp_path, bundle_root="$monai_idm.find_bundle_root()")
    run.initialize()
    assert run.bundle_root == ("bundle" if place == "above" else ".")


# bfloat16 convolutions of 2^3 voxels are not reliable on a CPU: there the deepest side is 4
SIZES = {"spatial_size": [16, 24, 16], "demo#phantom_size": [16, 20, 16], "batch_size": 1}
NATIVE = {**SMALLEST, **SIZES, "num_workers": 1}


@pytest.mark.parametrize(
    ("overlays", "weight_dtype", "offload_levels"),
    [([], "float32", 0), ([], "bfloat16", 2), (["full_resolution"], "bfloat16", 0)],
)
def test_native_volumes_train_with_all_that_saves_memory_and_resume(
    overlays, weight_dtype, offload_levels, tmp_path, caplog
):
    pytest.importorskip("bitsandbytes")
    caplog.set_level("INFO")
    configs = ["train", "native", *overlays]
    knobs = {**NATIVE, "activations": "auto", "weight_dtype": weight_dtype, "offload_levels": offload_levels}
    train(tmp_path, configs, **knobs)
    run = train(tmp_path, configs, **knobs, resume=True, max_epochs=3)
    assert "checkpoint_epoch=2.pt, epoch 2" in caplog.text
    network = run.parser.get_parsed_content("network")
    weights = {p.dtype for name, p in network.core.named_parameters() if name.endswith("conv1.weight")}
    assert weights == {getattr(torch, weight_dtype)}
    assert all(p.grad is None for p in network.parameters())
    optimizer = run.parser.get_parsed_content("optimizer")
    assert bool(optimizer.offloaded) == (offload_levels > 0)
    states = optimizer.state.values()
    assert any(t.dtype == torch.uint8 for state in states for t in state.values() if isinstance(t, torch.Tensor))
    record = read_record(tmp_path / "models" / "model.pt")
    assert record["data"]["spatial_size"] == [16, 24, 16]
    image = run.parser.get_parsed_content("validate#dataset")[0]["image"]
    scanned = nib.load(image.meta["filename_or_obj"])
    np.testing.assert_allclose(image.pixdim, scanned.header.get_zooms(), rtol=1e-5)
    with (tmp_path / "output" / "data_wait.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
