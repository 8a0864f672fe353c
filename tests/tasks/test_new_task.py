"""A new task takes a class, an overlay on train.yaml, an overlay for its evaluation, and an inference config."""

from __future__ import annotations

import json
import shutil
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator

from idm_bundle.packaging import package
from monai_idm.checkpoints import read_record, read_weights
from monai_idm.data.modalities import title_of
from monai_idm.schedulers import StridedDDIMScheduler
from monai_idm.tasks import DrawingInferer, DrawingIteration, Task
from monai_idm.trained import TrainedModel
from tests.bundle.workspace import CONFIGS, TINY, workflow

# the module


class Deblurring(Task):
    """Draw sharp volumes under the condition of blurred ones."""

    name, title, description = "deblurring", "Sharp MRI", "Draws the brain that a blurred MRI scan shows"
    defaults: ClassVar = {"modalities": ["t1", "t2"]}

    def __init__(self, modalities):
        self.modalities = modalities

    @property
    def inputs(self):
        return [f"{state} {name}" for state in ("noisy", "blurred") for name in self.drawn]

    @property
    def drawn(self):
        return [title_of(name) for name in self.modalities]

    def image(self, batch):
        return batch["image"]

    def condition(self, batch):
        return batch["blurred"]


# its configs

TRAINING = """
task: {_target_: tests.tasks.test_new_task.Deblurring, modalities: "@modalities"}
blur:
- {_target_: CopyItemsd, keys: image, names: blurred}
- {_target_: GaussianSmoothd, keys: blurred, sigma: 1.5}
train#preprocessing#transforms: "$@transforms + @train#plain + [@train#flip] + @blur"
validate#preprocessing#transforms: "$@transforms + @blur"
validate#inferer: "@draw"
validate#iteration: {_target_: DrawingIteration}
to_image_range: [{_target_: ToImageRanged, keys: [image, pred], network_range: "@network_range"}]
validate#handlers: [{_target_: UseEMA, ema: "@ema"}, "@validate#montage", "@validate#best"]
"""
EVALUATION = """
ckpt_file: "$@ckpt_dir + '/model.pt'"
trained: {_target_: TrainedModel, file: "@ckpt_file", task: deblurring}
datalist#_target_: monai_idm.data.evaluation_datalist
datalist#ckpt_file: "@ckpt_file"
datalist#evaluation_split: test
validate#dataset#data: "$@datalist['test']"
validate#report#prefix: deblurring
validate#handlers: [{_target_: CheckedCheckpointLoader, load_path: "@ckpt_file", load_dict: {model: "@network"}}]
run: "%evaluating"
"""
INFERENCE = """
imports: ["$import monai_idm", "$import torch"]
initialize: ["$monai_idm.read_knobs(@trained)"]
bundle_root: "$monai_idm.find_bundle_root()"
dataset_dir: data
ckpt_file: "$@bundle_root + '/models/deblurring/model.pt'"
output_dir: "$@bundle_root + '/output/deblurring'"
num_inference_steps: 10
device: "$torch.device('cpu')"

trained: {_target_: TrainedModel, file: "@ckpt_file", task: deblurring, untrained: {spatial_size: [16, 16, 16]}}
network_def: "$@trained.network()"
network: "$@network_def.to(@device)"
handlers: [{_target_: CheckedCheckpointLoader, load_path: "@ckpt_file", load_dict: {model: "@network"}}]
inferer: "$@trained.inferer('StridedDDIMScheduler', @num_inference_steps)"
preprocessing:
  _target_: Compose
  transforms:
  - {_target_: LoadVolumesd, keys: image, modalities: "$@trained['modalities']"}
  - "$@trained.to_grid('image')"
  - {_target_: CopyItemsd, keys: image, names: blurred}
dataset:
  _target_: Dataset
  data: "$monai_idm.data.brats_datalist(@dataset_dir, @trained['modalities'])"
  transform: "@preprocessing"
postprocessing:
  _target_: Compose
  transforms:
  - {_target_: ToNatived, keys: pred, transform: "@preprocessing", orig_keys: image}
  - {_target_: SaveVolumesd, keys: pred, output_dir: "@output_dir", modalities: "$@trained['modalities']"}
evaluator:
  _target_: SupervisedEvaluator
  device: "@device"
  val_data_loader: {_target_: DataLoader, dataset: "@dataset", batch_size: 1}
  network: "@network"
  inferer: "@inferer"
  iteration_update: {_target_: DrawingIteration}
  postprocessing: "@postprocessing"
  val_handlers: "@handlers"
run: ["$@evaluator.run()"]
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The bundle with the new task's configs added."""
    folder = tmp_path_factory.mktemp("new") / "bundle"
    shutil.copytree(CONFIGS.parent, folder, ignore=shutil.ignore_patterns("models", "output"))
    for name, text in (("", TRAINING), ("evaluate_", EVALUATION), ("inference_", INFERENCE)):
        (folder / "configs" / f"{name}deblurring.yaml").write_text(text)
    return folder


def run(bundle, *names, kind="train", **values):
    configs = [str(bundle / "configs" / name) for name in names]
    started = workflow(configs, kind, bundle, **{"device": TINY["device"], **values})
    started.initialize()
    started.run()
    return started


@pytest.fixture(scope="module")
def trained(bundle):
    run(bundle, "train", "deblurring", **{**TINY, "ckpt_dir": str(bundle / "models")})
    return bundle / "models" / "model.pt"


def test_it_is_trained_and_validated(trained, bundle):
    record = read_record(trained)
    assert record["task"] == "deblurring"
    assert record["convention"]["modalities"] == ["t1", "t2"]
    summary = json.loads((bundle / "output" / "validation.json").read_text())["summary"]
    assert summary["image"]["t2"]["brain"]["reconstruction"]["psnr"]["mean"] > 5
    assert list((bundle / "output").glob("montage*.png"))


def test_its_weights_make_network_and_inferer_and_the_condition_is_heard(trained):
    model = TrainedModel(trained, "deblurring")
    assert type(model.task) is Deblurring
    network = model.network().eval()
    assert (network.in_channels, network.out_channels) == (4, 2)
    network.load_state_dict(read_weights(trained)[0])
    draw = model.inferer("StridedDDIMScheduler", 2, num_draws=2)
    blurred = torch.rand(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    draws = draw.draws(blurred, network)
    assert draws.shape == (1, 2, 2, 16, 16, 16)
    assert torch.equal(draw(blurred, network), draws.mean(1))
    assert (draw.draws(-blurred, network) - draws).abs().max() > 1e-3


class Copying(torch.nn.Module):
    """Predicts that the image is its condition."""

    def forward(self, x, timesteps, context=None):
        return x[:, 1:]


def test_a_validation_step_draws_under_the_condition_of_the_task():
    batch = {key: torch.randn(2, 1, 4, 6, 4) for key in ("image", "blurred")}
    inferer = DrawingInferer(StridedDDIMScheduler(100, "cosine", "sample", clip_sample=False), Deblurring(["t1"]))
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), [batch], Copying(), inferer=inferer, iteration_update=DrawingIteration(), decollate=False
    )
    evaluator.run()
    torch.testing.assert_close(evaluator.state.output["pred"], batch["blurred"])


def test_its_inference_asks_for_the_weights_alone(trained, bundle):
    data = bundle / "output" / "phantoms"
    started = run(
        bundle, "inference_deblurring", kind="infer", dataset_dir=str(data), ckpt_file=str(trained),
        output_dir=str(bundle / "drawn"), num_inference_steps=2,
    )  # fmt: skip
    assert started.check_properties() == []
    for case in started.dataset.data:
        for modality, file in zip(("t1", "t2"), case["image"], strict=True):
            scan, drawn = nib.load(file), nib.load(bundle / "drawn" / f"{case['subject']}_{modality}.nii.gz")
            assert drawn.shape == scan.shape
            np.testing.assert_allclose(drawn.affine, scan.affine, atol=1e-5)
            assert np.isfinite(drawn.get_fdata()).all()


def test_it_is_evaluated_on_what_its_training_set_aside(trained, bundle):
    run(
        bundle, "train", "deblurring", "evaluate_deblurring", ckpt_dir=str(bundle / "models"),
        **{name: TINY[name] for name in ("demo#num_subjects", "demo#phantom_size", "num_inference_steps")},
    )  # fmt: skip
    listed = json.loads((bundle / "output" / "datalist.json").read_text())
    found = json.loads((bundle / "output" / "deblurring.json").read_text())
    assert {row["subject"] for row in found["cases"]} == {item["subject"] for item in listed["test"]}


def test_its_bundle_names_its_channels(trained, bundle, tmp_path):
    folder = package(trained, tmp_path, bundle_root=bundle)
    assert folder.name.endswith("_deblurring")
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert (metadata["name"], metadata["task"]) == (Deblurring.title, Deblurring.description)
    (given,), (predicted,) = (metadata["network_data_format"][side].values() for side in ("inputs", "outputs"))
    assert [*given["channel_def"].values()] == ["noisy T1", "noisy T2", "blurred T1", "blurred T2"]
    assert [*predicted["channel_def"].values()] == ["flow to T1", "flow to T2"]
    for name in ("train", "evaluate", "inference"):
        assert "deblurring" in (folder / "configs" / f"{name}.json").read_text().lower()
