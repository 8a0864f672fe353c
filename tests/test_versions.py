"""The versions that are declared, pinned, written into bundles and tested agree."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from monai.utils import version_leq

from idm_bundle.doctor import doctor
from idm_bundle.optional import OPTIONAL

ROOT = Path(__file__).parents[1]


def section(name, key):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return [line for line in config[name][key].splitlines() if line]


MINIMA = dict(line.split(">=") for line in section("options", "install_requires"))
PINS = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())


def used():
    content = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text())
    names = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    own = {name: content[key] for name, key in names.items()}
    return {**own, **content["required_packages_version"]}


@pytest.mark.parametrize("package", MINIMA)
def test_the_pinned_version_is_allowed(package):
    assert version_leq(MINIMA[package], PINS[package])


@pytest.mark.parametrize("package", sorted({*used()} - {"monai-idm"}))
def test_bundles_name_a_version_that_is_allowed_and_pinned(package):
    assert version_leq(MINIMA[package], used()[package])
    assert used()[package] == PINS[package]


def test_every_optional_package_is_declared_and_has_its_command():
    extras = {extra: section("options.extras_require", extra) for extra in ("low-memory", "zoo")}
    for package, (_, install) in OPTIONAL.items():
        extra = re.search(r"\[(.*)\]", install)
        declared = extras[extra[1]] if extra else [install.removeprefix("pip install ")]
        assert any(re.split("[>=]", line)[0] == package for line in declared)
    tested = section("options.extras_require", "test")
    assert {line for lines in extras.values() for line in lines} <= {*tested}  # or the checks would skip them


def test_ci_installs_every_minimum():
    (command,) = re.findall(r"oldest=\$\((.*)\)", (ROOT / ".ci" / "run").read_text())
    found = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert found == [f"{name}=={minimum}" for name, minimum in MINIMA.items()]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [({"torch": "2.9.1"}, '! torch 2.9.1 is older than 2.11, the oldest tried: pip install "torch>=2.11"'),
     ({"torch": None}, '! torch is not installed: pip install "torch>=2.11"'),
     ({"torch": "2.11.0+cu130"}, None), ({"torch": "2.11"}, None), ({"torch": "3.0"}, None)],
)  # fmt: skip
def test_the_doctor_compares_what_is_installed_with_it(versions, expected, monkeypatch):
    def version(name):
        if versions.get(name, "99") is None:
            raise metadata.PackageNotFoundError
        return versions.get(name, "99")

    declared = ["torch>=2.11", "numpy (>=2.0)", "scipy", 'einops>=0.8; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    monkeypatch.setattr(metadata, "version", version)
    assert [line for line in doctor() if "2.11" in line and line.startswith("!")] == ([expected] if expected else [])
