"""Names of the version before."""

from __future__ import annotations

import importlib

import pytest

import monai_idm
from monai_idm import checkpoints, data, distributed, schedulers, tasks


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (monai_idm, "tell_plainly", "install_error_report"),
        (checkpoints, "said_by", "read_sections"),
        (data, "described", "describe_data"),
        (distributed, "whole", "full_tensor"),
        (schedulers, "way_back", "sampler_starting_at"),
        (tasks, "predicted", "predicted_channels"),
    ],
)
def test_an_old_name_works_and_warns(module, old, new):
    with pytest.warns(FutureWarning, match=f"{module.__name__}.{old} was renamed to {new} in version 0.4.0"):
        assert getattr(module, old) is getattr(module, new)
    assert old not in module.__all__


def test_other_names_are_as_unknown_as_ever():
    with pytest.raises(AttributeError, match=r"module 'monai_idm\.data' has no attribute 'nothing'"):
        _ = importlib.import_module("monai_idm.data").nothing
