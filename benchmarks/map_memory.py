"""Peak memory of make_map.py on rasters of 1, 4 and 16 times as many cells.

    python benchmarks/map_memory.py

Each map is made by a process of its own with two workers, at r = 3. Printed are the peaks of the main process and of its
largest worker, as the operating system counts them (resident set).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from map_speed import make_network, make_rasters

SIDES = (1024, 2048, 4096)
MEASURED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import make_map
if __name__ == "__main__":
    make_map.main(sys.argv[2:])
    print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "measured.py").write_text(MEASURED)
        make_network(folder / "network.pth", 3)
        first = None
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
            print(f"{side * side:14,}{peaks[0]:11.0f} MB{peaks[1]:13.0f} MB   {ratios}")


if __name__ == "__main__":
    main()
