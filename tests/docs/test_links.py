"""What the pages point to exists: files, headings, commands, options, configs and their knobs."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any
from unittest import mock

import monai.bundle
import pytest
from monai.bundle import ConfigParser

from idm_bundle import __main__ as command_line
from idm_bundle.benchmark import SUITES
from idm_bundle.studies import __main__ as studies
from monai_idm.knobs import _RENAMED
from tests.docs.pages import CONFIGS, PAGES, ROOT, anchors, code, links, read

STAND_INS = {"SUITE": SUITES[0], "NAME": next(iter(studies.STUDIES))}  # words that stand for one of several
EXAMPLES = {"my.yaml"}  # a reader's own
FOREIGN = {  # arguments of the commands of MONAI, torchrun and pdoc
    *["config_file", "filepath", "ckpt_file", "meta_file", "tracking"],
    *["nproc_per_node", "nnodes", "rdzv_backend", "rdzv_endpoint", "docformat", "math"],
}
FOLDERS = "bundle|idm_bundle|monai_idm|tests"
OUTPUTS = ("bundle/output", "bundle/models")  # of a training


class _Built(Exception):
    """Ends a command as soon as it has its parser."""


@cache
def parser_of(main: Callable[[], Any]) -> argparse.ArgumentParser:
    """The parser that a command builds."""
    with mock.patch.object(argparse.ArgumentParser, "parse_args", autospec=True, side_effect=_Built) as parse:
        with suppress(_Built):
            main()
        return parse.call_args.args[0]


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (choices,) = (a.choices for a in parser_of(command_line.main)._actions if a.nargs == argparse.PARSER)
    return choices


def commands(page: str, module: str) -> Iterator[list[str]]:
    """Arguments of each ``python -m module`` on a page; ``idm`` is short for our own."""
    names = rf"-m {re.escape(module)}(?![.\w])" + (r"|^idm(?= |$)" if module == "idm_bundle" else "")
    for line in code(read(page)):
        for arguments in re.findall(rf"(?:{names})([^&]*)", line):
            yield [STAND_INS.get(word, word) for word in shlex.split(arguments, comments=True)]


@cache
def knobs(file: str) -> set[str]:
    return set(ConfigParser.load_config_file(str(CONFIGS / file)))


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_to_a_file_and_a_heading(page):
    for link in links(read(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert target.resolve().is_relative_to(ROOT), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_a_command_is_one_of_ours_and_parses(page):
    for arguments in commands(page, "idm_bundle"):
        assert not arguments or arguments[0] in subcommands(), f"{page}: {arguments}"
        if len(arguments) > 1:  # one word alone is the command's name; "verify --bundle" names an option
            value = ["VALUE"] if arguments[-1].startswith("--") else []
            require_parsed(parser_of(command_line.main), [*arguments, *value], page)
    for arguments in commands(page, "idm_bundle.studies"):
        if arguments:
            require_parsed(parser_of(studies.main), arguments, page)


def require_parsed(parser: argparse.ArgumentParser, arguments: list[str], page: str) -> None:
    try:
        parser.parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{page}: {' '.join(arguments)} does not parse")


@pytest.mark.parametrize("page", PAGES)
def test_a_run_names_configs_and_knobs_that_they_have(page):
    for arguments in commands(page, "monai.bundle"):
        if not arguments or arguments == ["..."]:
            continue
        assert hasattr(monai.bundle, arguments[0]), f"{page}: {arguments}"
        if arguments[0] != "run":
            continue
        options = dict(zip(arguments, [*arguments[1:], ""], strict=True))
        files = options["--config_file"]
        names = ast.literal_eval(files) if files.startswith("[") else [files]
        paths = [path for name in names for path in (ROOT / name, ROOT / "bundle" / name) if path.is_file()]
        assert len(paths) == len(names), f"{page}: {files}"
        config = ConfigParser()
        config.read_config([str(path) for path in paths])
        for option in options:
            if option.startswith("--") and option != "--config_file":
                assert option[2:] in config, f"{page}: {option} is no knob of {files}"


@pytest.mark.parametrize("page", PAGES)
def test_an_option_is_a_knob_or_an_argument(page):
    arguments = [parser_of(studies.main), *subcommands().values()]
    known = {name for parser in arguments for action in parser._actions for name in action.option_strings}
    known |= {f"--{name}" for name in FOREIGN | set(_RENAMED)}
    for line in code(read(page)):
        for option in re.findall(r"(?<!\S)--([a-z]\w*)", line):
            ours = any(option in knobs(file.name) for file in CONFIGS.glob("*.yaml"))
            assert ours or f"--{option}" in known, f"{page}: --{option}"


@pytest.mark.parametrize("page", PAGES)
def test_a_config_is_there(page):
    for name in re.findall(r"[\w*<>]+\.yaml", read(page)):
        if "<" not in name and name not in EXAMPLES:
            assert list(CONFIGS.glob(name)), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_a_path_in_the_repository_is_there(page):
    for span in code(read(page)):
        for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./<>-]+)", span):
            if "<" not in path and not path.startswith(OUTPUTS):
                assert (ROOT / path).exists(), f"{page}: {path}"


def test_the_commands_of_a_page_are_found():
    assert ["run", "training", "--config_file", "bundle/configs/train.yaml"] in commands("README.md", "monai.bundle")
    assert ["doctor"] in commands("README.md", "idm_bundle")
    assert ["benchmark", "paper"] in commands("bundle/docs/BENCHMARKS.md", "idm_bundle")
    assert ["peers", "--steps", "1000", "--side", "32"] in commands("bundle/docs/QUALITY.md", "idm_bundle.studies")
