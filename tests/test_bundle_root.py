"""The bundle is found from its own folder and from the one above."""

from __future__ import annotations

import pytest

from monai_idm import find_bundle_root


def test_it_is_found_here_or_one_below_or_refused(tmp_path, monkeypatch):
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_bundle_root() == "bundle"
    monkeypatch.chdir(tmp_path / "bundle")
    assert find_bundle_root() == "."
    monkeypatch.chdir(tmp_path / "bundle" / "configs")
    with pytest.raises(FileNotFoundError, match="--bundle_root, or create one with: python -m idm_bundle init"):
        find_bundle_root()
    assert find_bundle_root(tmp_path / "bundle") == str(tmp_path / "bundle")
    with pytest.raises(FileNotFoundError, match="it has no folder configs; give the folder that holds it"):
        find_bundle_root(tmp_path)
