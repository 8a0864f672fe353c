"""Every subject has its own files, whatever script its name is in."""

from __future__ import annotations

import unicodedata

import pytest

from monai_idm.file_stem import UniqueStems, file_stem

KEPT = ["患者", "Zoë_1.2-b", "Пациент", "مريض", "रोगी", "환자", "३", "BraTS-GLI-00000-001", "7"]


@pytest.mark.parametrize("name", KEPT)
def test_letters_digits_and_marks_of_every_script_stay(name):
    assert file_stem(name) == unicodedata.normalize("NFC", name)
    assert file_stem(unicodedata.normalize("NFD", name)) == file_stem(name)


@pytest.mark.parametrize(
    ("subject", "stem"),
    [
        ("../../etc/x y", "_.._etc_x_y"),
        ("a\\b:c*d", "a_b_c_d"),
        ("line\nbreak\x00", "line_break_"),
        ("[x] (1)", "_x___1_"),
        ("..hidden", "hidden"),
        ("case#1", "case_1"),
        ("😀", "_"),
        ("\udce4", "_"),
        (7, "7"),
        ("nul", "_nul"),
        ("COM1.old", "_COM1.old"),
        ("CONTROL", "CONTROL"),
    ],
)
def test_other_characters_become_an_underscore(subject, stem):
    assert file_stem(subject) == stem


@pytest.mark.parametrize("subject", ["", ".", "..."])
def test_a_name_of_which_nothing_is_left_is_refused(subject):
    with pytest.raises(ValueError, match="gives no file name; it must contain more than dots"):
        file_stem(subject)


@pytest.mark.parametrize("subject", ["a" * 181, "患" * 61])
def test_a_name_that_is_too_long_is_refused(subject, tmp_path):
    with pytest.raises(ValueError, match=r"has 18[13] bytes; .* at most 180"):
        file_stem(subject)
    (tmp_path / f".unfinished.4194304.{file_stem(subject[:-1])}_t1ce_reconstruction.nii.gz").touch()


@pytest.mark.parametrize(
    ("one", "other"),
    [("ä", unicodedata.normalize("NFD", "ä")), ("é x", "é_x"), ("Case", "CASE"), ("Ä", "ä"), ("患/者", "患 者")],
)
def test_two_subjects_with_one_stem_are_refused(one, other):
    stems = UniqueStems()
    stems(one)
    assert stems(one) == file_stem(one)  # again
    with pytest.raises(ValueError, match=r"the subjects .* would share the file name .*rename one") as error:
        stems.require(["b", other])
    assert all(f"{name!a}" in str(error.value) for name in (one, other))


def test_subjects_that_only_look_alike_without_their_letters_are_different():
    UniqueStems().require(["患者", "病人", "张三", "李四", "王五", "Müller", "M_ller", "Muller"])
