"""The processes that recipes work in: what the command is told, its worker is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = """\
import os, signal, subprocess, sys, threading
from registry import workers

process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()  # its thread gets the signal:
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print(*workers._wait(process))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal masks")
def test_a_worker_is_told_at_once_whichever_thread_gets_the_signal() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "-15 ('SIGTERM',)\n"
