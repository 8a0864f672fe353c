"""``python -m idm_bundle COMMAND``: what a user does around the bundle.

Examples:
    python -m idm_bundle phantom phantoms --subjects 40 --size 64 64 48
    python -m idm_bundle verify --device cuda
    python -m idm_bundle benchmark paper --device cuda --json rows.jsonl --figure paper.png
    python -m idm_bundle doctor
    python -m idm_bundle prepare /data/BraTS2020 datalist.json --modalities t1 t2
    python -m idm_bundle report bundle/output --weights bundle/models/model.pt
    python -m idm_bundle package --weights bundle/models/model.pt --output packaged
    python -m idm_bundle verify --bundle packaged/brats_mri_invertible_diffusion
"""

from __future__ import annotations

import argparse
import logging
import sys

from idm_bundle.benchmark import SUITES, benchmark
from idm_bundle.doctor import doctor
from idm_bundle.packaging import package, verify_bundle
from idm_bundle.report import report
from idm_bundle.verify import verify
from monai_idm import __version__
from monai_idm.data import prepare_datalist, write_phantoms


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Of the command line; None: those of this process.
    Returns:
        The exit code: 0, or 1 after an error that is the input's, which is printed.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(
        "python -m idm_bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    phantom = commands.add_parser("phantom", help="generate synthetic brains in BraTS's folder layout")
    phantom.add_argument("directory", help="folder to write to")
    phantom.add_argument("--subjects", type=int, default=40, help="how many (40)")
    phantom.add_argument("--size", type=int, nargs=3, default=[240, 240, 155], help="voxels (240 240 155)")
    phantom.add_argument("--seed", type=int, default=0, help="same seed, same voxels (0)")
    phantom.set_defaults(run=lambda a: write_phantoms(a.directory, a.subjects, a.size, a.seed))

    prepare = commands.add_parser("prepare", help="check a BraTS folder, split it by subject, write the datalist")
    prepare.add_argument("dataset_dir", help="folder in one of BraTS's layouts")
    prepare.add_argument("file", help="datalist to write, JSON")
    prepare.add_argument("--modalities", nargs="+", default=["t1", "t2"], help="of t1 t1ce t2 flair (t1 t2)")
    prepare.add_argument("--seed", type=int, default=0, help="of the split (0)")
    prepare.set_defaults(run=lambda a: prepare_datalist(a.dataset_dir, a.file, modalities=a.modalities, seed=a.seed))

    check = commands.add_parser(
        "verify", help="measure whether the laws of the reversible engine hold on this machine; or check a bundle"
    )
    check.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    check.add_argument("--json", help="file to write the findings to")
    check.add_argument("--bundle", help="folder of a bundle: make the checks of the Model Zoo's CI instead, offline")
    check.add_argument("--mode", choices=("min", "full"), default="full", help="of these checks (full)")
    check.add_argument("--schema", help="MONAI's schema file of metadata, if it is at hand")
    check.set_defaults(run=_verify)

    page = commands.add_parser("report", help="one HTML page of a run: curves, tables, pictures, settings")
    page.add_argument("run_dir", help="output_dir of a training")
    page.add_argument("--weights", help="its model.pt, which tells data, settings and versions")
    page.add_argument("--file", help="HTML to write (report.html in run_dir)")
    page.set_defaults(run=lambda a: report(a.run_dir, a.weights, a.file))

    pack = commands.add_parser("package", help="make a bundle of trained weights that runs without this project")
    pack.add_argument("--weights", required=True, help="model.pt of a training")
    pack.add_argument("--output", required=True, help="folder to write the bundle and its zip to")
    pack.add_argument("--url", help="where weights of more than 25 MB will be found, for large_files.yml")
    pack.set_defaults(run=lambda a: package(a.weights, a.output, a.url))

    measure = commands.add_parser("benchmark", help="bytes, FLOPs, seconds and joules of training steps")
    measure.add_argument("suite", choices=SUITES)
    measure.add_argument("--device", default="estimate", help="cpu, cuda, or estimate: compute nothing (estimate)")
    measure.add_argument("--json", help="file to write the rows to, one JSON object per line")
    measure.add_argument("--figure", help="PNG to draw")
    measure.add_argument("--card_gb", type=float, help="let a CUDA device allocate no more, as a smaller card")
    measure.set_defaults(run=lambda a: benchmark(a.suite, a.device, a.json, a.figure, a.card_gb))

    diagnose = commands.add_parser("doctor", help="what this machine can do, and why not")
    diagnose.set_defaults(run=lambda a: doctor())

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _verify(options: argparse.Namespace) -> None:
    if options.bundle is not None:
        return verify_bundle(options.bundle, options.mode, options.schema)
    missed = [finding.law for finding in verify(options.device, options.json) if not finding.holds]
    if missed:
        raise ValueError(f"{len(missed)} laws do not hold here: {'; '.join(missed)}")


if __name__ == "__main__":
    sys.exit(main())
