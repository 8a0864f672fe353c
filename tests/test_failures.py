"""A run that fails says in its last line what went wrong first, and has an exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import monai_idm
from monai_idm.failures import BadNumbers, OutOfMemory
monai_idm.tell_plainly()
def run():
    {error}
try:
    run()
except Exception as error:
    raise RuntimeError("Failed to evaluate '$@train#trainer.run()'") from error
"""


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        ("raise ValueError('batch_size=0; choose 1 or more')", 1, "ValueError: batch_size=0; choose 1 or more"),
        ("raise OutOfMemory('advice')", 4, "OutOfMemory: advice"),
        ("raise BadNumbers('case a') from ValueError('nan')", 5, "BadNumbers: case a"),
    ],
)
def test_the_last_line_and_the_code_are_those_of_the_first_error(error, code, last):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(error=error)], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == last
    assert ("Traceback" in done.stderr) == (code == 1)
