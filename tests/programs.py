"""Programs that start within milliseconds: forks of a process that has done the slow imports already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# each line of standard input is a program; a fork runs it as python -c does, including the interpreter's exit
FORKS = """
import json, os, signal, sys
exec(sys.argv[1])
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
signal.alarm(job["seconds"])
os.chdir(job["folder"])
for stream, file in enumerate((os.devnull, job["stdout"], job["stderr"])):
    os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC), stream)
sys.argv[1:] = job["arguments"]
exec(job["code"])
"""


class Programs:
    """Runs programs that all begin with the same imports.

    Args:
        imports: Code that has run before each program starts.
    """

    def __init__(self, imports: str) -> None:
        command = [sys.executable, "-c", FORKS, imports]
        self._forks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: Any) -> None:
        self._forks.communicate()

    def run(self, code: str, folder: Path, *arguments: str, seconds: int = 120) -> subprocess.CompletedProcess[str]:
        """Run a program in a folder; after some seconds it is ended by SIGALRM."""
        outputs = {stream: str(folder / f".{stream}") for stream in ("stdout", "stderr")}
        job = {"code": code, "arguments": arguments, "folder": str(folder), "seconds": seconds, **outputs}
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        print(json.dumps(job), file=self._forks.stdin)
        code_of_exit = int(self._forks.stdout.readline())
        printed = {stream: Path(file).read_text() for stream, file in outputs.items()}
        return subprocess.CompletedProcess(code, code_of_exit, **printed)
