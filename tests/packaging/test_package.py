"""Bundles made from weights, and the checks of bundles."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import monai
import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ckpt_export, create_workflow
from monai.data import MetaTensor

from idm_bundle.packaging import package, verify_bundle, zoo
from idm_bundle.studies.configs import configured
from monai_idm import __version__
from monai_idm.checkpoints import PHANTOM, fingerprint, read_record
from monai_idm.data import generate_phantom
from monai_idm.trained import task_of
from tests.bundle.test_weights_decide import trained_settings
from tests.bundle.workspace import chain

TASKS: dict[str, list[str]] = {
    "generation": [],
    **{task: [task] for task in ("segmentation", "synthesis", "inpainting", "semantic", "super_resolution")},
}


def weights(folder: Path, *overlays: str, source: str = PHANTOM, **changes) -> Path:
    """A model.pt as a training run writes it, without the training."""
    config = configured({"device": "$torch.device('cpu')", **changes}, *overlays)
    network, record = (config.get_parsed_content(name) for name in ("network", "record"))
    record.describe_data(source, num_cases=3, spatial_size=[16, 24, 16], spacing_mm=2.0)
    file = folder / "model.pt"
    torch.save(network.state_dict(), file)
    return file


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / "configs" / name).read_text())


@pytest.mark.parametrize(
    ("task", "knobs"),
    [
        ("generation", {"modalities": ["t2", "flair"], "bookend_stride": 2, "prediction_type": "flow"}),
        ("segmentation", {"regions": ["core", "whole"], "schedule": "linear_beta"}),
        ("synthesis", {"modalities": ["t1", "t1ce", "t2"], "known": ["t1", "t2"]}),
        ("inpainting", {"modalities": ["t2"], "zoom": False}),
        ("super_resolution", {"slices": "coronal", "thickness_mm": 5.0}),
        ("semantic", {"labels": {"ventricles": [4, 11], "rest": [1]}, "regression": True}),
    ],
)
def test_a_bundle_says_what_its_weights_were_trained_for(task, knobs, tmp_path):
    file = weights(tmp_path, *TASKS[task], source="/home/someone/BraTS2020", **knobs)
    folder = package(file, tmp_path / "out")
    knobs |= {"spatial_size": [16, 24, 16]}
    train = read(folder, "train.json")
    assert {**train, **knobs} == train
    for name in ("inference", "evaluate"):
        settings = trained_settings(folder, name)
        stride = {"bookend_stride": settings["preset"]["bookend_stride"]}  # the network's, from its arguments
        assert {**{knob: settings[knob] for knob in knobs}, **stride} == {**stride, **knobs}
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    network = configured({}, *TASKS[task])
    network.update(knobs)
    network = network.get_parsed_content("network_def")
    for side, channels in (("inputs", network.in_channels), ("outputs", network.out_channels)):
        (tensor,) = metadata["network_data_format"][side].values()
        assert tensor["num_channels"] == len(tensor["channel_def"]) == channels
        assert tensor["spatial_shape"] == [f"{network.divisor}*n"] * 3
    assert "3 cases of BraTS2020" in metadata["description"]
    assert read_record(folder / "models" / "model.pt")["data"]["source"] == "BraTS2020"
    config = ConfigParser()
    config.read_config(folder / "configs" / "inference.json")
    config["bundle_root"] = str(folder)
    file = Path(config.get_parsed_content("ckpt_file"))
    assert file == folder / "models" / "model.pt"
    config.get_parsed_content("network").load_state_dict(torch.load(file, weights_only=True))
    zoo.check(folder, "min", None)


def test_labels_of_a_table_need_not_be_those_of_phantoms(tmp_path):
    zoo._properties(
        package(weights(tmp_path, "semantic", labels={"ventricles": [4, 11], "rest": [1]}), tmp_path / "out")
    )


def test_an_export_is_as_exact_as_the_size_of_its_values_allows():
    expected = torch.linspace(-100, 100, 50)
    zoo._compare("TorchScript", expected + 5e-4, expected)
    with pytest.raises(ValueError, match=r"differs by 2e-05 of the largest value"):
        zoo._compare("TorchScript", expected + 2e-3, expected)


def test_no_page_of_a_bundle_links_to_a_page_that_is_not_in_it(bundle):
    for page in (bundle / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).is_file(), f"{page.name}: {target}"


def test_any_to_any_synthesis_stays_so(tmp_path):
    folder = package(weights(tmp_path, "synthesis", modalities=["t1", "t1ce", "t2", "flair"], known=None), tmp_path)
    assert read(folder, "train.json")["known"] is None
    assert trained_settings(folder, "inference")["known"] is None
    assert trained_settings(folder, "evaluate")["known"] is None
    config = ConfigParser(read(folder, "inference.json"))
    config["bundle_root"] = str(folder)
    assert config.get_parsed_content("given") == ["t1", "t1ce", "t2"]
    assert config.get_parsed_content("made") == ["flair"]


def test_the_zip_holds_what_the_folder_holds_and_the_code(tmp_path):
    folder = package(weights(tmp_path), tmp_path / "out")
    (archive,) = (tmp_path / "out").glob("*.zip")
    names = {f"{folder.name}/{file.relative_to(folder).as_posix()}" for file in folder.rglob("*") if file.is_file()}
    with zipfile.ZipFile(archive) as opened:
        assert {name for name in opened.namelist() if not name.endswith("/")} == names
    assert f"{folder.name}/monai_idm/networks/invertible_unet.py" in names
    assert f"{folder.name}/configs/multi_gpu_train.json" in names
    assert not any("__pycache__" in name for name in names)
    assert "demonstration" in json.loads((folder / "configs" / "metadata.json").read_text())["description"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {folder.name, archive.name}
    assert not (folder / "idm_bundle").exists()


CONDITIONS = [{"name": "Age", "mean": 48.0, "sd": 16.0, "min": 20.0, "max": 86.0}, {"name": "Sex", "words": ["F", "M"]}]


def test_a_bundle_with_conditions_says_which_and_samples_by_them(tmp_path):
    folder = package(weights(tmp_path, numeric_conditions=CONDITIONS), tmp_path / "out")
    assert "; conditioned on Age (20 to 86), Sex (F or M)" in read(folder, "metadata.json")["description"]
    assert trained_settings(folder, "inference")["numeric_conditions"] == CONDITIONS
    assert read(folder, "train.json")["numeric_conditions"] == CONDITIONS
    options = {"num_samples": 1, "num_inference_steps": 2, "condition_values": {"Age": 70}, "guidance_scale": 2}
    config = {"config_file": str(folder / "configs" / "inference.json"), "bundle_root": str(folder)}
    workflow = create_workflow(workflow_type="infer", logging_file=False, **config, **options)
    workflow.run()
    written = json.loads((folder / "output" / "inference" / "sample_000.json").read_text())
    assert (written["condition_values"], written["settings"]["guidance_scale"]) == ({"Age": "70"}, 2)


def test_a_bundle_without_conditions_can_be_trained_with_a_table(bundle):
    assert "fit_conditions" in read(bundle, "train.json")["numeric_conditions"]
    assert "conditioned" not in read(bundle, "metadata.json")["description"]


def test_all_checks_pass_on_code_and_weights_of_the_bundle_alone(tmp_path, monkeypatch, capfd):
    # with conditions: the network then has all inputs that an export must know
    folder = package(weights(tmp_path, numeric_conditions=CONDITIONS), tmp_path / "out")
    (elsewhere := tmp_path / "bundle" / "models").mkdir(parents=True)  # a clone, with weights of another task
    monkeypatch.chdir(weights(elsewhere, "segmentation").parents[2])
    verify_bundle(folder)
    printed = capfd.readouterr().out
    for law in ("code: the bundle's own", "properties", "network: inputs", "TorchScript: exported", "ONNX: exported"):
        assert law in printed
    (folder / "monai_idm").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="does not pass"):
        verify_bundle(folder)
    assert "not from the bundle" in capfd.readouterr().err


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return package(weights(folder), folder)


def test_other_code_loads_the_network_by_the_bundles_name(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = monai.bundle.load(bundle.name, bundle_dir=bundle.parent, device="cpu")
    given = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(given[name], tensor) for name, tensor in network.state_dict().items())


def test_an_unpacked_zip_samples_from_another_folder(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (archive,) = bundle.parent.glob("*.zip")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / bundle.name
    workflow = create_workflow(
        config_file=str(folder / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(folder),
        logging_file=False,
        num_samples=1,
        num_inference_steps=2,
    )
    assert not workflow.check_properties()
    workflow.run()
    image = nibabel.load(folder / "output" / "inference" / "sample_000_t1.nii.gz")
    assert image.shape == (16, 24, 16)


def test_code_of_another_version_is_refused(bundle, monkeypatch):
    monkeypatch.setattr("monai_idm.version.__version__", "9.9")
    files = {"config_file": str(bundle / "configs" / "inference.json"), "bundle_root": str(bundle)}
    with pytest.raises(RuntimeError) as raised:
        create_workflow(workflow_type="infer", logging_file=False, **files)
    assert f"contains monai_idm {__version__}, but 9.9 was imported" in chain(raised.value)


def test_code_without_its_requirements_says_what_is_missing(bundle):
    command = "import sys; sys.modules['matplotlib'] = None; import monai_idm"
    run = subprocess.run([sys.executable, "-c", command], cwd=bundle, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "monai_idm needs matplotlib, which is not installed; pip install monai nibabel" in run.stderr


def change_metadata(folder: Path, **changes) -> None:
    file = folder / "configs" / "metadata.json"
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda f: (f / "LICENSE").unlink(), "lacks LICENSE"),
        (lambda f: (f / "models" / "model.pt").unlink(), "lacks models/model.pt"),
        (lambda f: (f / "configs" / "inference.json").unlink(), "lacks configs/inference.json"),
        (lambda f: (f / "models" / "large.ts").write_bytes(bytes(26 * 10**6)), "large.ts has more than 25 MB"),
        (lambda f: (f / "configs" / "train.json").write_text("d: /home/me/data"), "train.json names /home/me"),
        (lambda f: change_metadata(f, version="9.9"), "9.9 is not in metadata.json's changelog"),
        (lambda f: change_metadata(f, authors=None), "'authors' is a required property"),
        (lambda f: change_metadata(f, network_data_format={"inputs": {}}), "is a required property|too short"),
    ],
)
def test_a_bundle_with_a_fault_is_refused(harm, match, bundle, tmp_path):
    folder = Path(shutil.copytree(bundle, tmp_path / "copy"))
    zoo.check(folder, "min", None)
    harm(folder)
    with pytest.raises(ValueError, match=match):
        zoo.check(folder, "min", None)


def test_weights_that_tell_nothing_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give the model\.pt of a training"):
        package(tmp_path / "none.pt", tmp_path / "out")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not record its network and training"):
        package(tmp_path / "other.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_of_no_preset_is_refused_and_leaves_nothing(tmp_path):
    file = weights(tmp_path, **{"network_def#num_res_blocks": 1})
    with pytest.raises(ValueError, match="none of the presets light, base, paper"):
        package(file, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_bundle_is_never_replaced(bundle, tmp_path):
    file = weights(tmp_path)
    before = fingerprint(bundle / "models" / "model.pt")
    with pytest.raises(FileExistsError, match="exists already"):
        package(file, bundle.parent)
    assert fingerprint(bundle / "models" / "model.pt") == before


def test_large_weights_need_an_address(tmp_path, monkeypatch):
    monkeypatch.setattr("idm_bundle.packaging.bundle.LARGE_FILE_BYTES", 10**6)
    file = weights(tmp_path)
    with pytest.raises(ValueError, match=r"have 12 MB.*--url"):
        package(file, tmp_path / "out")
    folder = package(file, tmp_path / "out", url="https://example.org/model.pt")
    (entry,) = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    assert entry["url"] == "https://example.org/model.pt"
    assert entry["hash_val"] == fingerprint(folder / entry["path"])


def test_no_bundle_no_checks(tmp_path):
    with pytest.raises(FileNotFoundError, match="it has no configs"):
        verify_bundle(tmp_path)


def test_every_task_has_its_own_name():
    names = {task_of({"convention": c}).name for c in ({}, {"regions": []}, {"known": None})}
    assert names == {"generation", "segmentation", "synthesis"}
    assert {task_of({"task": name, "convention": {}}).name for name in names} == names


def test_a_check_that_lacks_its_package_says_so(bundle, monkeypatch):
    monkeypatch.setattr(zoo.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="pip install jsonschema"):
        zoo.check(bundle, "min", None)


def test_monai_deploy_finds_what_its_operator_looks_for(tmp_path):
    """The steps of MonaiBundleInferenceOperator; tests/integration/monai_deploy.py runs the SDK itself."""
    folder = package(weights(tmp_path, "segmentation", spatial_size=[16, 16, 16]), tmp_path / "out")
    names = {"meta_file": "metadata", "config_file": "inference"}
    files = {name: str(folder / "configs" / f"{file}.json") for name, file in names.items()}
    model, weights_file = tmp_path / "model.ts", str(folder / "models" / "model.pt")
    ckpt_export("network_def", str(model), **files, ckpt_file=weights_file, bundle_root=str(folder))
    with zipfile.ZipFile(model) as archive:
        metadata, content = (json.loads(archive.read(f"model/extra/{name}.json")) for name in names.values())
    config = ConfigParser(content)
    config.parse()
    before, after, inferer = (config.get_parsed_content(n) for n in ("preprocessing", "postprocessing", "inferer"))
    ((given,), (made,)) = (list(metadata["network_data_format"][side]) for side in ("inputs", "outputs"))

    head = generate_phantom(7, (24, 24, 20))
    affine = torch.from_numpy(head.affine)
    case = before({given: MetaTensor(np.stack(list(head.images.values())), affine=affine)})
    others = {name: value[None] for name, value in case.items() if name != given and torch.is_tensor(value)}
    pred = inferer(inputs=case[given][None], network=torch.jit.load(model).eval(), **others)
    labels = after({made: pred[0], **case})[made]
    assert labels.shape == (1, 24, 24, 20)
    assert set(labels.unique().tolist()) <= {0, 2}
    torch.testing.assert_close(labels.affine, affine)
    own = config.get_parsed_content("network_def")
    own.load_state_dict(torch.load(weights_file, weights_only=True))
    assert (inferer(case[given][None], own) != pred).float().mean() < 0.01
