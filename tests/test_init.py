"""A folder to work in, made by an installation without a clone."""

from __future__ import annotations

from pathlib import Path

from monai.bundle import ConfigParser

from idm_bundle import installed
from idm_bundle.__main__ import main
from monai_idm import find_bundle_root

BUNDLE = Path(__file__).parents[1] / "bundle"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_copies_configs_and_docs_and_no_run_of_the_source(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert main(["init", str(tmp_path / "mine")]) == 0
    assert "python -m monai.bundle run training --config_file configs/train.yaml" in capsys.readouterr().out
    expected = {name: file for name, file in contents(BUNDLE).items() if not name.startswith(("models", "output"))}
    assert contents(tmp_path / "mine") == {**expected, "notes.txt": b"mine"}
    monkeypatch.chdir(tmp_path / "mine")
    assert find_bundle_root() == "."
    config = ConfigParser()
    config.read_config("configs/train.yaml")
    assert config.get_parsed_content("ckpt_dir") == "./models"


def test_an_edited_bundle_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    assert main(["init", str(tmp_path)]) == 1
    assert "configs exists already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["configs"]


def test_an_installation_without_configs_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installed, "__file__", str(tmp_path / "idm_bundle" / "installed.py"))
    assert main(["init", str(tmp_path / "new")]) == 1
    assert "configs are missing from this installation" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_files_of_a_wheel_are_found(tmp_path, monkeypatch):
    shared = tmp_path / "share" / "monai-idm" / "bundle"
    (shared / "configs").mkdir(parents=True)
    (shared / "configs" / "train.yaml").touch()
    monkeypatch.setattr(installed, "__file__", str(tmp_path / "lib" / "idm_bundle" / "installed.py"))
    monkeypatch.setattr(installed.sysconfig, "get_path", lambda name: str(tmp_path))
    assert installed.installed_bundle() == shared
