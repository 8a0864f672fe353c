"""The commands around the bundle: ``idm COMMAND``, or ``python -m idm_bundle COMMAND``; ``--help`` has examples.

Exit codes: 0, success; 1, an error, which is printed; 2, invalid arguments; 3, success, but some cases were left out.
"""

from __future__ import annotations

import argparse
import ast
import logging
import sys
from typing import Any

from idm_bundle.benchmark import SUITES, benchmark
from idm_bundle.doctor import doctor
from idm_bundle.init import init
from idm_bundle.packaging import package, verify_bundle
from idm_bundle.plan import plan
from idm_bundle.prepare import prepare
from idm_bundle.report import report
from idm_bundle.verify import verify
from monai_idm import __version__
from monai_idm.data import LABEL_MAPS, write_phantoms
from monai_idm.networks.presets import PRESETS

LEFT_OUT = 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Command-line arguments; None: those of this process.
    Returns:
        The exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(
        "idm", description=__doc__.replace("``", ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    start = _command(commands, "init", "copy the bundle's configs and docs into a folder to work in", "my_bundle")
    start.add_argument("directory", help="folder to write to")
    start.set_defaults(run=lambda a: init(a.directory))

    phantom = _command(
        commands, "phantom", "generate synthetic brains in the folder layout of BraTS", "phantoms --subjects 40"
    )
    phantom.add_argument("directory", help="folder to write to")
    phantom.add_argument("--subjects", type=int, default=40, help="how many (40)")
    phantom.add_argument("--size", type=int, nargs=3, default=[240, 240, 155], help="voxels (240 240 155)")
    phantom.add_argument("--seed", type=int, default=0, help="same seed, same voxels (0)")
    phantom.set_defaults(run=lambda a: write_phantoms(a.directory, a.subjects, a.size, a.seed))

    check = _command(
        commands,
        "prepare",
        "check every case of a BraTS folder, list those with problems, and split the others into a datalist",
        "/data/BraTS2020 datalist.json --modalities t1 t2",
        "/data/BraTS2020 datalist.json --modalities t1 t1ce t2 flair --label_map brats2020",
    )
    check.add_argument("dataset_dir", help="folder in one of the layouts of BraTS; it is only read")
    check.add_argument("file", help="JSON datalist to write; training takes it as --datalist_file")
    check.add_argument(
        "--modalities",
        nargs="+",
        default=["t1", "t2"],
        help="required contrasts, of t1 t1ce t2 flair (t1 t2)",
    )
    check.add_argument(
        "--label_map",
        type=_label_map,
        help="require a label for every case, with the numbers of this map: "
        f"{', '.join(LABEL_MAPS)}, or your own, such as \"{{'lesion': 1}}\"",
    )
    check.add_argument(
        "--label_name", help="require a label for every case; the last part of its file's name, such as seg (seg)"
    )
    check.add_argument("--seed", type=int, default=0, help="seed of the split (0)")
    check.add_argument(
        "--patients",
        metavar="FILE",
        help="CSV of subject and patient, where names do not show it",
    )
    check.add_argument("--air", type=float, help="intensity outside the brain (most common value on the border)")
    check.set_defaults(run=_prepare)

    laws = _command(
        commands,
        "verify",
        "check on this machine that rebuilt and stored activations give equal gradients; or check a packaged bundle",
        "--device cuda --json laws.json",
        "--bundle packaged/brats_mri_invertible_diffusion",
    )
    laws.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    laws.add_argument("--json", help="file to write the findings to")
    laws.add_argument("--bundle", help="packaged bundle: run the Model Zoo's checks on it instead, offline")
    laws.add_argument("--mode", choices=("min", "full"), default="full", help="extent of the bundle's checks (full)")
    laws.add_argument("--schema", help="local copy of MONAI's metadata schema, for a full check of metadata.json")
    laws.set_defaults(run=_verify)

    page = _command(
        commands,
        "report",
        "write one HTML page about a run: curves, tables, pictures, settings",
        "bundle/output --weights bundle/models/model.pt",
    )
    page.add_argument("run_dir", help="output_dir of the training run")
    page.add_argument("--weights", help="its model.pt, which records data, settings and versions")
    page.add_argument("--file", help="HTML to write (report.html in run_dir)")
    page.set_defaults(run=lambda a: report(a.run_dir, a.weights, a.file))

    pack = _command(
        commands,
        "package",
        "turn trained weights into a MONAI bundle that runs without this project installed",
        "--weights bundle/models/model.pt --output packaged",
    )
    pack.add_argument("--weights", required=True, help="model.pt of a training run")
    pack.add_argument("--output", required=True, help="folder to write the bundle and its zip to")
    pack.add_argument("--url", help="where weights of more than 25 MB will be found, for large_files.yml")
    pack.add_argument("--bundle_root", help="folder that holds configs/ (., ./bundle, or the installed configs)")
    pack.set_defaults(run=lambda a: package(a.weights, a.output, a.url, a.bundle_root))

    ahead = _command(
        commands,
        "plan",
        "list which networks and volumes fit on a card, before anything is started",
        "--card_gb 8",
        "--card_gb 24 --spatial_size 256 256 192 --preset base --cases 300",
    )
    ahead.add_argument("--card_gb", type=float, help="GB of the card (what is free on the GPU that is here)")
    ahead.add_argument("--spatial_size", type=int, nargs=3, help="voxels of a volume (several sizes)")
    ahead.add_argument("--preset", choices=PRESETS, help="network (all)")
    ahead.add_argument("--batch_size", type=int, help="volumes in a step (4 at 64^3, else 1)")
    ahead.add_argument("--cases", type=int, default=369, help="training cases, for the days of 500 epochs (369)")
    ahead.add_argument(
        "--rows", metavar="FILE", help="what benchmark --json measured on this card, for the seconds of a step"
    )
    ahead.set_defaults(run=lambda a: plan(a.card_gb, a.spatial_size, a.preset, a.batch_size, a.cases, a.rows) and None)

    measure = _command(
        commands,
        "benchmark",
        "measure or estimate memory, FLOPs, time and energy of training steps",
        "paper --figure paper.png",
        "paper --device cuda --json rows.jsonl",
        "all --device cuda --minutes 8 --json rows.jsonl",
    )
    measure.add_argument(
        "suite",
        choices=SUITES,
        help="cases to run; all: the laws of verify, then the cases of every suite, the most important first",
    )
    measure.add_argument(
        "--device", default="estimate", help="cpu, cuda, or estimate: count without computing (estimate)"
    )
    measure.add_argument("--json", help="file to write the rows to, one JSON object per line, each when it is there")
    measure.add_argument("--figure", help="PNG to draw")
    measure.add_argument("--card_gb", type=float, help="GB that the CUDA device shall seem to have, as a smaller card")
    measure.add_argument("--minutes", type=float, help="time for the suite all; what does not fit is left out (8)")
    measure.add_argument(
        "--rehearse", action="store_true", help="suite all with small networks and volumes, to try it on a CPU"
    )
    measure.set_defaults(run=_benchmark)

    diagnose = _command(commands, "doctor", "list what this machine has and what is missing", "--json machine.json")
    diagnose.add_argument("--json", help="file to write the findings to")
    diagnose.add_argument("--bundle_root", help="folder that holds configs/ (. or ./bundle)")
    diagnose.set_defaults(run=lambda a: doctor(a.json, a.bundle_root))

    options = parser.parse_args(arguments)
    try:
        code = options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def _command(commands: Any, name: str, purpose: str, *examples: str) -> argparse.ArgumentParser:
    lines = [f"  idm {name} {example}" for example in examples]
    return commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog="\n".join(["examples:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _label_map(text: str) -> str | dict[str, int]:
    """The name of a label map, or a map written out as a dictionary."""
    return ast.literal_eval(text) if text.startswith("{") else text


def _prepare(options: argparse.Namespace) -> int:
    problems = prepare(
        options.dataset_dir,
        options.file,
        options.modalities,
        options.label_map,
        options.seed,
        options.patients,
        options.air,
        options.label_name,
    )
    return LEFT_OUT if problems else 0


def _verify(options: argparse.Namespace) -> None:
    if options.bundle is not None:
        return verify_bundle(options.bundle, options.mode, options.schema)
    missed = [finding.law for finding in verify(options.device, options.json) if not finding.holds]
    if missed:
        raise ValueError(f"{len(missed)} laws do not hold here: {'; '.join(missed)}")


def _benchmark(options: argparse.Namespace) -> int:
    rows = benchmark(
        options.suite,
        options.device,
        options.json,
        options.figure,
        options.card_gb,
        options.minutes,
        options.rehearse,
    )
    return LEFT_OUT if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
