"""A run that fails says in its last line what went wrong first, and has an exit code."""

from __future__ import annotations

import sys

import pytest

from monai_idm import tell_plainly
from monai_idm.data import LoadVolumesd
from monai_idm.failures import BadNumbers, OutOfMemory


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (ValueError("batch_size=0; choose 1 or more"), 1, "ValueError: batch_size=0; choose 1 or more"),
        (IndexError("out of range"), 1, "IndexError: out of range; then RuntimeError: Failed to evaluate '$@range[1]'"),
        (OutOfMemory("advice"), 4, "OutOfMemory: advice"),
        (BadNumbers("case a"), 5, "BadNumbers: case a"),
    ],
)
def test_the_last_line_and_the_code_are_those_of_the_first_error(error, code, last, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    tell_plainly()
    with pytest.raises(RuntimeError) as raised:
        _run(error)
    try:
        sys.excepthook(raised.type, raised.value, raised.tb)
    except SystemExit as end:
        found = end.code
    else:
        found = 1  # as of any program that ends with an error
    assert found == code
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == last
    assert ("Traceback" in said) == (code == 1)


def test_an_error_of_ours_is_told_also_where_it_explains_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    tell_plainly()
    (tmp_path / "scan.nii.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot read") as raised:
        LoadVolumesd()({"image": [str(tmp_path / "scan.nii.gz")]})
    assert raised.value.__cause__ is not None
    sys.excepthook(raised.type, raised.value, raised.tb)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"ValueError: cannot read {tmp_path / 'scan.nii.gz'} as NIfTI")


def _run(error):
    """As MONAI runs a config."""
    try:
        raise error
    except Exception as first:
        raise RuntimeError("Failed to evaluate \n'$@range[1]'\n") from first


def test_an_interruption_stays_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    tell_plainly()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.strip() == "KeyboardInterrupt"
