"""Phantom files: in the BraTS layout, written completely or not at all, and reused."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_idm.data import phantom as phantom_module
from monai_idm.data.phantom import MODALITIES, generate_phantom, write_phantoms

SIZE = (48, 48, 32)
KINDS = (*MODALITIES, "seg")


@pytest.fixture
def small():
    """Files are tested with 16 x 18 x 20 voxels and two modalities."""
    return {"spatial_size": (16, 18, 20), "seed": 5, "modalities": ("t1", "t2")}


def files_of(directory):
    return {p.relative_to(directory).as_posix(): p for p in directory.rglob("*") if p.is_file()}


def test_files_hold_the_heads_in_brats_layout(tmp_path):
    directory = write_phantoms(tmp_path / "new" / "phantoms", 2, SIZE, seed=5)
    record = json.loads((directory / "phantoms.json").read_text())
    assert "synthetic" in record["note"]
    assert record["spatial_size"] == list(SIZE)
    cases = [f"PHANTOM_00{i}" for i in range(2)]
    assert list(record["subjects"]) == cases
    assert set(files_of(directory)) == {f"{c}/{c}_{k}.nii.gz" for c in cases for k in KINDS} | {"phantoms.json"}
    for case, seed in record["subjects"].items():
        head = generate_phantom(seed, SIZE)
        for kind, voxels in {**head.images, "seg": head.label}.items():
            image = nib.load(directory / case / f"{case}_{kind}.nii.gz")
            np.testing.assert_array_equal(np.asanyarray(image.dataobj), voxels)
            assert image.get_data_dtype() == np.int16
            np.testing.assert_allclose(image.get_sform(), head.affine, atol=1e-5)
            np.testing.assert_allclose(image.get_qform(), head.affine, atol=1e-5)
            assert image.header["sform_code"] > 0
            assert image.header["qform_code"] > 0


def test_head_is_independent_of_how_many_there_are(tmp_path, small):
    one, three = (files_of(write_phantoms(tmp_path / str(n), n, **small)) for n in (1, 3))
    images = set(one) - {"phantoms.json"}
    assert images
    assert all(one[name].read_bytes() == three[name].read_bytes() for name in images)


def test_neighbouring_seeds_share_no_head(tmp_path, small):
    a, b = (write_phantoms(tmp_path / str(s), 3, **{**small, "seed": s}) for s in (0, 1))
    seeds = [set(json.loads((d / "phantoms.json").read_text())["subjects"].values()) for d in (a, b)]
    assert len(seeds[0] | seeds[1]) == 6


def test_reuse_writes_nothing(tmp_path, small, monkeypatch):
    directory = write_phantoms(tmp_path, 2, **small)
    before = {name: p.stat().st_mtime_ns for name, p in files_of(directory).items()}
    monkeypatch.setattr(phantom_module, "generate_phantom", None)
    assert write_phantoms(tmp_path, 2, **small) == directory
    assert {name: p.stat().st_mtime_ns for name, p in files_of(directory).items()} == before


@pytest.mark.parametrize("missing", ["phantoms.json", "PHANTOM_001/PHANTOM_001_t2.nii.gz"])
def test_incomplete_folder_is_completed(tmp_path, small, missing):
    whole = {name: p.read_bytes() for name, p in files_of(write_phantoms(tmp_path, 2, **small)).items()}
    (tmp_path / missing).unlink()
    (tmp_path / "PHANTOM_000/PHANTOM_000_t1.nii.gz").write_bytes(b"cut short")
    write_phantoms(tmp_path, 2, **small)
    assert {name: p.read_bytes() for name, p in files_of(tmp_path).items()} == whole


def test_interrupted_write_leaves_no_record_and_no_partial_file(tmp_path, small, monkeypatch):
    def interrupted(seed, *args):
        if seed == second:
            raise KeyboardInterrupt
        return generate_phantom(seed, *args)

    second = phantom_module._subject_seed(5, 1)
    monkeypatch.setattr(phantom_module, "generate_phantom", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path, 2, **small)
    assert set(files_of(tmp_path)) == {f"PHANTOM_000/PHANTOM_000_{k}.nii.gz" for k in ("t1", "t2", "seg")}


def test_failed_replacement_leaves_no_partial_file(tmp_path, small, monkeypatch):
    def full_disk(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(phantom_module.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_phantoms(tmp_path, 1, **small)
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 6}, "seed"),
        ({"spatial_size": (16, 16, 16)}, "spatial_size"),
        ({"modalities": ("t1",)}, "modalities"),
        ({"num_subjects": 1}, "subjects"),
    ],
)
def test_another_record_is_refused(tmp_path, small, change, named):
    write_phantoms(tmp_path, num_subjects=2, **small)
    before = {name: p.read_bytes() for name, p in files_of(tmp_path).items()}
    with pytest.raises(ValueError, match=rf"differs in .*{named}.*delete the folder or name another directory"):
        write_phantoms(tmp_path, **{"num_subjects": 2, **small, **change})
    assert {name: p.read_bytes() for name, p in files_of(tmp_path).items()} == before


def test_heads_of_another_generator_are_refused(tmp_path, small, monkeypatch):
    write_phantoms(tmp_path, 1, **small)
    monkeypatch.setattr(phantom_module, "GENERATOR", "monai_idm phantom 0")
    with pytest.raises(ValueError, match="differs in generator,"):
        write_phantoms(tmp_path, 1, **small)


@pytest.mark.parametrize("text", ["not json", "[1, 2]"])
def test_broken_record_is_refused(tmp_path, small, text):
    (tmp_path / "phantoms.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not a record of phantoms; delete the folder"):
        write_phantoms(tmp_path, 1, **small)


@pytest.mark.parametrize("name", ["notes.txt", "BraTS20_Training_001/BraTS20_Training_001_t1.nii.gz"])
@pytest.mark.parametrize("written_before", [True, False])
def test_foreign_files_are_refused(tmp_path, small, name, written_before):
    if written_before:
        write_phantoms(tmp_path, 1, **small)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"holds 1 files besides these phantoms, the first {name}; .*delete"):
        write_phantoms(tmp_path, 1, **small)
    assert (tmp_path / name).read_text() == "mine"


def test_leftovers_of_a_larger_interrupted_write_are_refused(tmp_path, small):
    write_phantoms(tmp_path, 2, **small)
    (tmp_path / "phantoms.json").unlink()
    with pytest.raises(ValueError, match=r"holds 3 files besides these phantoms, the first PHANTOM_001/"):
        write_phantoms(tmp_path, 1, **small)


def test_hidden_files_do_not_count(tmp_path, small):
    (tmp_path / ".DS_Store").touch()
    write_phantoms(tmp_path, 1, **small)
    assert (tmp_path / "phantoms.json").is_file()


def test_file_in_place_of_the_folder_is_refused(tmp_path, small):
    (tmp_path / "phantoms").touch()
    with pytest.raises(ValueError, match="is a file, but phantoms need a folder; name another directory"):
        write_phantoms(tmp_path / "phantoms", 1, **small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1, but must not be negative"),
        ({"spatial_size": (64, 64)}, r"spatial_size is \(64, 64\), but must be 3 axes"),
        ({"spatial_size": (64, 64, 15)}, "of 16 voxels or more"),
        ({"modalities": ("t1", "pd")}, r"modalities are \('t1', 'pd'\), but must be some of"),
        ({"modalities": ("t1", "t1")}, "each named once"),
        ({"modalities": ()}, "must be some of"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate_phantom(**{"seed": 0, **arguments})
    with pytest.raises(ValueError, match=message):
        write_phantoms(tmp_path, 1, **arguments)
    assert files_of(tmp_path) == {}


def test_no_phantoms_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="num_subjects is 0, but must be at least 1"):
        write_phantoms(tmp_path, 0)
