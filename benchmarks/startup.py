"""Start-up of the command line against an empty click command, in interleaved pairs.

    python benchmarks/startup.py [PAIRS]

Prints the median of the pairwise ratios for `mreg --help` and `mreg name`; the claim is at most 1.5.
All bytecode is compiled beforehand into a folder of the benchmark's own, as an installer would do.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EMPTY = """\
import click

@click.command()
def command():
    pass

command()
"""
MREG = """\
from registry.cli import main

main()
"""
COMMANDS = {"mreg --help": ["--help"], "mreg name model_seg_sc_t2": ["name", "model_seg_sc_t2"]}


def seconds(script: Path, arguments: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(script.parent / "bytecode")
    start = time.perf_counter()
    subprocess.run([sys.executable, script, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        empty, mreg = Path(folder, "empty.py"), Path(folder, "mreg.py")
        empty.write_text(EMPTY)
        mreg.write_text(MREG)
        for title, arguments in COMMANDS.items():
            seconds(empty, []), seconds(mreg, arguments)  # the first start compiles
            measured = [(seconds(empty, []), seconds(mreg, arguments)) for _ in range(pairs)]
            base, ours = (statistics.median(column) for column in zip(*measured, strict=True))
            ratio = statistics.median(right / left for left, right in measured)
            print(f"{title}: {1000 * ours:.0f} ms, empty click command {1000 * base:.0f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
