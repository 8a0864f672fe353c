"""Whatever the input, there is a normal result or a clear error of our own: hundreds of generated cases."""

from __future__ import annotations

import gzip
import json
import traceback
from datetime import timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import idm_bundle
import monai_idm
from idm_bundle.__main__ import main
from idm_bundle.studies.configs import SMALLEST, configured
from monai_idm.data import (
    EncodeConditionsd,
    LoadVolumesd,
    brats_datalist,
    condition_names,
    fit_conditions,
    prepare_datalist,
    read_conditions,
    write_phantoms,
)
from monai_idm.data.conditions import with_conditions

OURS = tuple(str(Path(package.__file__).parent) for package in (monai_idm, idm_bundle))


def bad_input(examples, **strategies):
    """Generate the same cases on every machine; none may hang."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    chosen = settings(
        max_examples=examples, deadline=timedelta(seconds=10), derandomize=True, suppress_health_check=quiet
    )
    return lambda test: chosen(given(**strategies)(test))


def result_or_clear_error(call):
    """The result of a call; None after an error that our own code raised on purpose, with a message."""
    try:
        return call()
    except (ValueError, OSError) as error:
        if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(OURS) or len(str(error)) < 30:
            raise
        return None


numbers = st.one_of(
    st.floats(-3, 3, width=32), st.sampled_from([0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e30, 1e-30])
)


@st.composite
def nifti(draw):
    """A file of any data type, header and scaling, possibly truncated or with changed bytes."""
    shape = draw(st.sampled_from([(4, 5, 3), (4, 5, 3, 1), (4, 5, 3, 2), (4, 5), (1, 1, 1), (4, 5, 3, 1, 2)]))
    kind = draw(st.sampled_from(["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "c8", "c16", "rgb"]))
    if kind == "rgb":
        voxels = np.zeros(shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    else:
        voxels = (np.arange(np.prod(shape)).reshape(shape) % 7).astype(kind)
    if voxels.dtype.kind == "f":
        voxels.flat[draw(st.integers(0, voxels.size - 1))] = draw(numbers)
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(shape)
    header["pixdim"] = [draw(numbers) for _ in range(8)]
    header["scl_slope"], header["scl_inter"] = draw(numbers), draw(numbers)
    header["qform_code"], header["sform_code"] = draw(st.integers(-1, 5)), draw(st.integers(-1, 5))
    for row in ("srow_x", "srow_y", "srow_z"):
        header[row] = [draw(numbers) for _ in range(4)]
    for quaternion in ("quatern_b", "quatern_c", "quatern_d"):
        header[quaternion] = draw(numbers)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = bytearray(header.binaryblock + bytes(4) + voxels.tobytes(order="F"))
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    content = bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    if draw(st.booleans()):
        return ".nii.gz", gzip.compress(content)[: draw(st.sampled_from([None, 10, -3]))]
    return ".nii", content


@bad_input(200, files=st.lists(nifti(), min_size=1, max_size=2))
def test_a_case_is_loaded_or_refused(files, tmp_path):
    paths = []
    for number, (ending, content) in enumerate(files):
        paths.append(tmp_path / f"{number}{ending}")
        paths[-1].write_bytes(content)
    case = result_or_clear_error(lambda: LoadVolumesd()({"image": [str(path) for path in paths]}))
    if case is not None:
        assert case["image"].shape == (len(paths), *case["mask"].shape[1:])
        assert case["image"].dtype == torch.float32
        assert case["image"].isfinite().all()
        assert case["image"].affine.isfinite().all()
        assert torch.linalg.det(case["image"].affine) != 0


names = st.sampled_from(["a", "A", "a.b", "..a", "a b", "ä", "BraTS-GLI-00001-000", "a_t1", "imagesTr", "x" * 40])
endings = st.sampled_from(
    ["_t1.nii.gz", "_t2.nii.gz", "-t1n.nii", "_seg.nii", "_T1.NII", ".nii.gz", "", "_t1.nii.gz.txt"]
)
trees = st.dictionaries(
    names,
    st.one_of(
        st.binary(max_size=8),
        st.dictionaries(st.builds(str.__add__, names, endings), st.one_of(st.binary(max_size=8), st.just({}))),
    ),
    max_size=4,
)


def write(folder, tree):
    folder.mkdir(exist_ok=True)
    for name, content in tree.items():
        if isinstance(content, dict):
            write(folder / name, content)
        elif not (folder / name).exists():
            (folder / name).write_bytes(content)


@bad_input(
    120,
    tree=trees,
    modalities=st.lists(st.sampled_from(["t1", "t2", "T1", "pd", ""]), max_size=2),
    labels=st.booleans(),
)
def test_a_folder_is_listed_or_refused(tree, modalities, labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    write(folder, tree)
    items = result_or_clear_error(lambda: brats_datalist(folder, modalities, labels))
    assert items is None or all(Path(path).is_file() for item in items for path in item["image"])


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 3, (16, 16, 16))


@bad_input(
    120,
    part=st.sampled_from(["training", "validation", "test", "modalities", "seed", None]),
    key=st.sampled_from(["image", "subject", "label", None]),
    value=plain,
    cut=st.one_of(st.none(), st.integers(0, 400)),
)
def test_a_datalist_is_taken_or_refused(part, key, value, cut, phantoms, tmp_path):
    file, used = tmp_path / "datalist.json", tmp_path / "used.json"
    used.unlink(missing_ok=True)
    prepare_datalist(phantoms, file)
    content = json.loads(file.read_text())
    if part is None:
        content = value
    elif key is None or not isinstance(content[part], list) or part == "modalities":
        content[part] = value
    else:
        content[part][0][key] = value
    file.write_text(json.dumps(content)[:cut])
    split = result_or_clear_error(lambda: prepare_datalist(phantoms, used, datalist_file=file))
    assert (split is None) == (not used.exists())


COMMANDS = ["phantom", "prepare", "verify", "report", "package", "doctor", "benchmark", "nonsense"]
OPTIONS = ["--json", "--seed", "--size", "--subjects", "--device", "--bundle", "--weights", "--modalities", "--help"]
VALUES = ["-1", "0", "2", "1e9", "cuda:7", "t1", "pd", "/nowhere/x", "brats2020", "--", "paper"]
words = st.one_of(
    st.sampled_from([*COMMANDS, *OPTIONS, *VALUES]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=4),
)


def cells(*texts):
    return st.lists(st.sampled_from(texts), min_size=3, max_size=3)


@bad_input(
    200,
    described=st.lists(
        st.one_of(
            cells("1", "2.5", "-3e2", "NA", "5e-324", "1e308"),
            cells("M", "F", "", "Ü", "m"),
            cells("1", "M", "1e400", "1_0", '"', "x\ny", "\ufeff", ","),
        ),
        min_size=2,
        max_size=2,
    ),
    others=st.lists(cells("a", "c", "", "1"), max_size=1),
    header=st.sampled_from([["subject", "Age", "Sex"]] * 3 + [["subject"], ["Age"] * 3, ["", "", "Age"], []]),
    mark=st.sampled_from([",", "\t", ",", ";"]),
    columns=st.sampled_from([None, None, ["Age"], ["Sex", "Age"], [51], [], "Age"]),
)
def test_a_table_of_conditions_is_encoded_or_refused(described, others, header, mark, columns, tmp_path):
    rows = [header, *zip("abM", *described, strict=True), *others]
    (file := tmp_path / "people.csv").write_text("\n".join(map(mark.join, rows)))

    def encode():
        table = read_conditions(file, columns)
        values = with_conditions([{"subject": subject} for subject in "abM"], table)
        items = [{"subject": subject, "condition_values": values[subject]} for subject in values]
        fitted = fit_conditions(items)
        found = torch.stack([EncodeConditionsd(fitted)(item)["conditions"] for item in items])
        assert found.shape == (3, len(condition_names(fitted)))
        assert not found.isinf().any()
        assert not found.isnan().all(0).any()
        return found

    result_or_clear_error(encode)


@bad_input(150, arguments=st.lists(words, max_size=5))
def test_a_command_is_done_or_refused(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if arguments[:1] in (["doctor"], ["verify"], ["benchmark"], ["phantom"]) and not set(arguments) & {"nonsense"}:
        arguments = [*arguments, "--nonsense"]  # parsed but not run: these may compute for a long time
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code in (0, 1, 2, 3)
    assert code != 1 or capsys.readouterr().err.startswith("error: ")


KNOBS = {
    "preset": ["light", "tiny", 3, None],
    "activations": ["rebuilt", "stored", "auto", "", None, ["rebuilt"]],
    "precision": ["mixed", "exact", "half", 16],
    "weight_dtype": ["bfloat16", "float16"],
    "gradient_dtype": ["bfloat16", "float16", None],
    "bookend_stride": [1, 2, 0, -1, "2"],
    "modalities": [["t1"], ["t2", "t1"], ["pd"], [], "t1", None],
    "network_range": [[0.0, 1.0], [1.0, -1.0], [0.0, 0.0], [0.0]],
    "num_train_timesteps": [10, 1, 0, -5, 2.5, "many"],
    "schedule": ["linear_beta", "square"],
    "prediction_type": ["epsilon", "sample", "flow", "noise"],
    "zero_terminal_snr": [True],
    "noise_shift": [2.0, 0.0, -1.0],
    "timestep_power": [1.0, 0.0, -1.0],
    "batch_size": [1, 0, -2],
    "learning_rate": [1e-3, -1.0],
    "betas": [[0.9, 0.999], [0.9, 1.5]],
    "lambda_l2": [0.0, -1.0],
    "lambda_r": [0.0, 0.5, 7.0],
    "min_snr_gamma": [5.0, -5.0],
    "ema_decay": [0.0, 1.0],
    "ema_interval": [1, 0],
    "sampler": ["StridedDDIMScheduler", "Nonsense"],
    "num_inference_steps": [1, 0, 5000, -1],
    "bad_steps": ["skip", "ignore"],
    "datalist_file": ["/nowhere/list.json"],
    "conditions": ["/nowhere/people.csv", 2024],
    "condition_columns": [["Age"], "Age"],
    "condition_dropout": [0.0, 1.0, -0.1],
    "dataset_dir": ["/nowhere"],
}
CHANGES = [(knob, value) for knob, values in KNOBS.items() for value in values]


@bad_input(150, changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2))
def test_a_config_is_built_or_refused(changes, phantoms, tmp_path):
    config = configured({**SMALLEST, "dataset_dir": str(phantoms), "output_dir": str(tmp_path), **dict(changes)})
    for part in ("datalist", "network", "few_step_scheduler", "optimizer", "ema", "train#loss", "train#step"):
        try:
            config.get_parsed_content(part)
        except Exception as error:
            outer = first = error
            while first.__cause__ is not None:
                outer, first = first, first.__cause__
            clear = isinstance(first, ValueError | OSError | ModuleNotFoundError) and len(str(first)) >= 20
            if not clear and not any(knob in str(outer) for knob, _ in changes):
                raise
            break
