"""Checking takes as much memory for a large archive as for a small one."""

import os
import subprocess
import sys
import zipfile

import pytest

# The peak of this program alone: ru_maxrss of a child begins with its parent's.
PEAK = r"""
import re, sys
from pathlib import Path
from registry.checks import check

def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

small, large, ballast = sys.argv[1:]
check(small)
first = peak()
kept = b"x" * int(ballast)
check(large)
print(peak() - first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak this way")
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_memory_does_not_grow_with_the_archive(method, tiny_package, tmp_path):
    large = tmp_path / "model_seg_sc_t2-r20260131.zip"
    with (
        zipfile.ZipFile(tiny_package.archive) as source,
        zipfile.ZipFile(large, "w", method, compresslevel=1) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        with target.open("weights.bin", "w") as member:
            for _ in range(60):
                member.write(os.urandom(1 << 20))

    def more(ballast: int) -> int:
        command = [sys.executable, "-c", PEAK, str(tiny_package.archive), str(large), str(ballast)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert more(0) < 20e6
    assert more(80 << 20) > 60e6  # the measure sees what is kept
