"""Common functions of the benchmarks: clocks, fresh processes, facts of the machine, result files."""

import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

FOLDER = Path("results/bench")
"""Every benchmark leaves its numbers here, as <its name>.json."""


def timed(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Return the seconds a call takes; by default those of the process, which other programs disturb least."""
    start = clock()
    call()
    return clock() - start


def in_fresh_process(call: Callable, *arguments):
    """Return the result of a function of a module, called in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def resident_mb(name: str = "VmRSS") -> float:
    """Return this process's resident set now, or its peak ("VmHWM"), in megabytes, as Linux counts them."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status[name].split()[0]) / 1024


def keep(name: str, found: dict) -> None:
    """Write a benchmark's numbers with the machine's facts."""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **found}, indent=2) + "\n", encoding="utf-8")
    print(f"{path}\n")


def machine() -> dict:
    """Return the facts of the machine that speed depends on, with its current load."""
    import torch

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "rasterio", "scikit-learn")},
    }


def processor() -> str:
    """Return the processor's name where the system provides it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
