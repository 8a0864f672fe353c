"""The last line of a failed run is the error that came first, and its exit code tells the kind of error."""

from __future__ import annotations

import signal
import sys

import pytest
from monai.transforms import Compose
from torch.utils.data import DataLoader

from monai_idm import failures, install_error_report
from monai_idm.data import LoadVolumesd
from monai_idm.failures import BadNumbers, OutOfMemory
from tests.programs import Programs


@pytest.fixture
def ends(monkeypatch) -> list[tuple[int, bool]]:
    """How the program would have ended: the exit code, and whether it was interrupted."""
    recorded: list[tuple[int, bool]] = []
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(failures, "_finish", lambda: None)
    monkeypatch.setattr(failures, "_leave", lambda code, interrupted: recorded.append((code, interrupted)))
    install_error_report()
    return recorded


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (ValueError("batch_size=0; choose 1 or more"), 1, "ValueError: batch_size=0; choose 1 or more"),
        (IndexError("out of range"), 1, "IndexError: out of range; then RuntimeError: Failed to evaluate '$@range[1]'"),
        (OutOfMemory("advice"), 4, "OutOfMemory: advice"),
        (BadNumbers("case a"), 5, "BadNumbers: case a"),
    ],
)
def test_the_last_line_and_the_code_are_those_of_the_first_error(error, code, last, ends, capsys):
    with pytest.raises(RuntimeError) as raised:
        _run(error)
    sys.excepthook(raised.type, raised.value, raised.tb)
    assert ends == [(code, False)]
    message = capsys.readouterr().err
    assert message.splitlines()[-1] == last
    assert ("Traceback" in message) == (code == 1)


def test_an_error_of_ours_is_the_last_line_even_if_raised_from_another(tmp_path, ends, capsys):
    (tmp_path / "scan.nii.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot read") as raised:
        LoadVolumesd()({"image": [str(tmp_path / "scan.nii.gz")]})
    assert raised.value.__cause__ is not None
    sys.excepthook(raised.type, raised.value, raised.tb)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"ValueError: cannot read {tmp_path / 'scan.nii.gz'} as NIfTI")


class Reads:
    """A dataset one of whose cases fails."""

    def __init__(self, file, transform):
        self.file, self.transform = str(file), transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.transform({"image": [self.file]}) if index == 3 else index


def divide(data):
    return 1 / 0


@pytest.mark.parametrize(
    ("context", "transform", "last"),
    [
        ("fork", Compose([LoadVolumesd()]), "ValueError: cannot read {} as NIfTI ("),
        ("spawn", Compose([LoadVolumesd()]), "ValueError: cannot read {} as NIfTI ("),
        ("fork", Compose([divide]), "ZeroDivisionError: division by zero"),
        ("fork", divide, "ZeroDivisionError: division by zero"),
    ],
)
def test_the_first_error_of_a_data_worker_is_the_last_line(context, transform, last, tmp_path, ends, capsys):
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"no archive")
    loader = DataLoader(Reads(file, transform), batch_size=None, num_workers=1, multiprocessing_context=context)
    with pytest.raises((ValueError, RuntimeError, ZeroDivisionError)) as raised:
        list(loader)
    sys.excepthook(raised.type, raised.value, raised.tb)
    assert capsys.readouterr().err.splitlines()[-1].startswith(last.format(file))


def _run(error):
    """As MONAI runs a config."""
    try:
        raise error
    except Exception as first:
        raise RuntimeError("Failed to evaluate \n'$@range[1]'\n") from first


def test_an_interruption_is_passed_on(ends, capsys):
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.strip() == "KeyboardInterrupt"
    assert ends == [(1, True)]


def test_an_interactive_session_does_not_end(ends, capsys, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    sys.excepthook(BadNumbers, BadNumbers("case a"), None)
    assert capsys.readouterr().err.splitlines()[-1] == "BadNumbers: case a"
    assert not ends


# threads that compute while the main one fails, like those of MONAI's cache and buffers
IMPORTS = """
import atexit, os, signal, sys, threading
import torch
from torch.utils.tensorboard import SummaryWriter
from monai_idm import install_error_report
from monai_idm.distributed import finalize_processes
from monai_idm.failures import BadNumbers, OutOfMemory
"""
BUSY = """
def compute():
    while True:
        torch.nn.functional.conv2d(torch.randn(4, 8, 64, 64), torch.randn(8, 8, 3, 3))

def finish_a_file():
    open("thread", "w").write("done")

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a script starts in the background
install_error_report()
for _ in range(3):
    threading.Thread(target=compute, daemon=True).start()
threading.Timer(0.2, finish_a_file).start()
atexit.register(lambda: print("at exit", file=sys.stderr))
writer = SummaryWriter("events")
for step in range(300):
    writer.add_scalar("loss", step, step)
print("from standard output", end="")
"""


@pytest.fixture(scope="module")
def programs():
    with Programs(IMPORTS) as programs:
        yield programs


@pytest.mark.parametrize(
    ("failure", "code", "last"),
    [
        ("raise ValueError('size=0; choose 1')", 1, "ValueError: size=0; choose 1"),
        ("raise BadNumbers('case a')", 5, "BadNumbers: case a"),
        ("raise OutOfMemory('advice')", 4, "OutOfMemory: advice"),
        ("os.kill(os.getpid(), 2); threading.Event().wait()", -signal.SIGINT, "at exit"),
        ("sys.stdout.close(); raise ValueError('size=0; choose 1')", 1, "ValueError: size=0; choose 1"),
        # several processes at the end of a run: gloo's threads still free tensors
        ("sys.argv[0] = '/monai/bundle/__main__.py'; finalize_processes()", 0, "at exit"),
    ],
)
def test_threads_that_still_compute_change_neither_code_nor_last_line(failure, code, last, programs, tmp_path):
    times = 3 if code == 1 else 1  # with the usual shutdown, 17 of 18 were aborted
    for _ in range(times):
        done = programs.run(BUSY + failure, tmp_path)
        assert done.returncode == code, done.stderr
        assert done.stderr.splitlines()[-1] == last
        assert "at exit" in done.stderr
        assert done.stdout == "from standard output"
        assert (tmp_path / "thread").read_text() == "done"  # an ordinary thread is waited for
        (tmp_path / "thread").unlink()
    scalars = _scalars(tmp_path / "events")
    assert scalars == [*range(300)] * times


def _scalars(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(folder.iterdir())
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [event.step for event in events if event.HasField("summary")]
