"""Peak memory of make_map.py on rasters of 1, 4 and 16 times as many cells.

    python benchmarks/map_memory.py

Each map is made by a process of its own with two workers. Printed are the peaks of the main process and of its
largest worker, as Linux counts them (resident set).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from map_speed import make_network, make_rasters
from measuring import keep

SIDES = (1000, 2000, 4000)
MEASURED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from soilcarbon.commands import map as make_map
if __name__ == "__main__":
    make_map.main(sys.argv[2:])
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # rusage would count what ran before it here
    print(int(status["VmHWM"].split()[0]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "measured.py").write_text(MEASURED)
        make_network(folder / "network.pth", 0)
        first, lines = None, []
        print("cells".rjust(14), "main process".rjust(14), "largest worker".rjust(16), " of the smallest map's")
        for side in SIDES:
            rasters = folder / str(side)
            make_rasters(rasters, side)
            root = Path(__file__).resolve().parents[1]
            command = [sys.executable, "measured.py", str(root), "--checkpoint", "network.pth", "--rasters", str(rasters)]
            done = subprocess.run(
                [*command, "--out", f"{side}.tif", "--workers", "2"], cwd=folder, check=True, capture_output=True, text=True
            )
            peaks = [int(kilobytes) / 1024 for kilobytes in done.stdout.split()[-2:]]
            first = first or peaks
            ratios = "  ".join(f"{peak / least:.2f}" for peak, least in zip(peaks, first, strict=True))
            lines.append({"cells": side * side, "main process_mb": peaks[0], "largest worker_mb": peaks[1]})
            print(f"{side * side:14,}{peaks[0]:11.0f} MB{peaks[1]:13.0f} MB   {ratios}")
        keep("map_memory", {"peaks": lines})


if __name__ == "__main__":
    main()
