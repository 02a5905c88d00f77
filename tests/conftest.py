"""A small simulated dataset with known truth, and the folders of real files that may be absent."""

import gc
import logging
import os
import resource
import shutil
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import sklearn.utils.parallel
import torch
from remote_server import Server, serve
from simulated import make_samples
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category
from soilcarbon.html import FigureFolder
from soilcarbon.regression import learners
from soilcarbon.soil.dataset import write_dataset
from soilcarbon.training import arrays, distillation

os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])  # for the processes that tests start
# the tests run side by side, and threads that spin while others have their core take a hundred times as long as one thread
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1")
threadpool_limits(1)
torch.set_num_threads(1)
# one thread has scikit-learn's settings and the filters of warnings, which would be set again for every tree of every prediction
sklearn.utils.parallel._FuncWrapper.__init__ = lambda self, function: setattr(self, "function", function)
sklearn.utils.parallel._FuncWrapper.__call__ = lambda self, *arguments, **named: self.function(*arguments, **named)
BaseEstimator._get_param_names = classmethod(cache(BaseEstimator._get_param_names.__func__))  # of every tree that is cloned
gc.set_threshold(10**9)  # no garbage is collected until the tests are
os.fsync = lambda _: None  # no test outlives a power cut, and a disk takes milliseconds for each

SHARED = Path(__file__).resolve().parents[2] / "shared"
PUBLISHED_WEIGHTS = SHARED / "published" / "GSoilCPM.pth"
REALDATA = SHARED / "realdata"

FEW = {"band1", "band2", "elevation", "slope", "bio01", "bio12", "evi_mean", "bedrock"}
FEW_CATEGORIES = tuple(
    each.model_copy(update={"variables": tuple(name for name in each.variables if name in FEW)}) for each in PUBLISHED_CATEGORIES
)

needs_published_weights = pytest.mark.skipif(
    not PUBLISHED_WEIGHTS.is_file(),
    reason="the published weights (CC BY-NC) are not here; get GSoilCPM.pth from github.com/leizhang-geo/GSoilCPM",
)
needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason="the real profiles (non-commercial) are not beside the checkout")


def pytest_collection_finish() -> None:
    """Collect garbage from here on, and among the objects of tests alone: the imported libraries have a million."""
    gc.freeze()
    gc.set_threshold(50_000)


def slow_but(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Return the cases of a parametrised test, all but the quick ones left to make test-all."""
    cases = [each if isinstance(each, tuple) else (each,) for each in cases]
    chosen = [each if isinstance(each, tuple) else (each,) for each in quick]
    assert all(each in cases for each in chosen), "a quick case that is none"
    return [pytest.param(*each, marks=[] if each in chosen else pytest.mark.slow) for each in cases]


@pytest.fixture(autouse=True)
def logging_stays_enabled() -> Iterator[None]:
    """Enable logging again after a test of a script that disables it: the tests after it look at what is logged."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def small_learners():
    """Forests and teachers of few trees, and few penalties of ridge regression: what they cost is not what most tests are of."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TREES": 20, "WORLD_TREES": 10, "ROWS_TO_FIT_KERNEL": 60}.items():
            patch.setattr(distillation, name, value)
        patch.setattr(learners, "_ALPHAS", learners._ALPHAS[::5])
        for each in (learners._FOREST, learners._BOOSTING):
            patch.setitem(each, "n_estimators", 30)
        yield patch


def tiny_models(patch: pytest.MonkeyPatch) -> None:
    """Let models of every learner be of a few trees and epochs: where it matters that they are whole, not how well they predict."""
    for values, name, value in (
        (arrays._DIRECT, "epochs", 2),
        (arrays._TAUGHT, "epochs", 1),
        (learners._FOREST, "n_estimators", 12),
        (learners._BOOSTING, "n_estimators", 12),
    ):
        patch.setitem(values, name, value)
    patch.setattr(distillation, "MIXED", 200)


def simulate_dataset(
    folder: Path, n: int = 120, side: int = 3, seed: int = 0, categories: tuple[Category, ...] = PUBLISHED_CATEGORIES
) -> Path:
    """Write a dataset: SOC = exp of a smooth function of three variables, 60 % train, 20 % valid, 20 % test."""
    random = np.random.default_rng(seed)
    patches = {}
    for category in categories:
        for k, name in enumerate(category.variables):
            centre = random.normal(10 * (k + 1), k + 1, n)[:, None, None]
            patches[name] = (centre + random.normal(0, 0.1, (n, side, side))).astype(np.float32)
            if category.kind == "classes":
                patches[name] = np.broadcast_to(random.integers(1, 5, n)[:, None, None], (n, side, side)).astype(np.float32)
    middle = side // 2
    standard = [(values - values.mean()) / values.std() for values in (patch[:, middle, middle] for patch in patches.values())]
    effects = [0.5, -0.4, 0.3]
    log_soc = 2.5 + sum(effect * np.tanh(values) for effect, values in zip(effects, standard, strict=False))
    soc = np.exp(log_soc) + random.uniform(0, 0.5, n)
    samples = pd.DataFrame(
        {
            "profile_id": [f"P{k:04d}" for k in range(n)],
            "lon": random.uniform(5, 15, n).round(5),
            "lat": random.uniform(45, 55, n).round(5),
            "soc": soc,
        }
    )
    split = np.array(["train", "train", "train", "valid", "test"])[np.arange(n) % 5]
    write_dataset(folder, samples, patches, split, categories, {})
    return folder


@cache
def _simulated(**how: Any) -> TemporaryDirectory:
    folder = TemporaryDirectory(prefix="soilcarbon-dataset-")  # removed when this process ends
    simulate_dataset(Path(folder.name), **how)
    return folder


def make_dataset(folder: Path, n: int = 120, **how: Any) -> Path:
    """Copy such a dataset, simulated once, into a folder: many tests begin with one."""
    shutil.copytree(_simulated(n=n, **how).name, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of 120 profiles with eight of the published variables in their categories, 3 x 3 cells each."""
    return make_dataset(tmp_path / "data", categories=FEW_CATEGORIES)


@pytest.fixture
def published_dataset(tmp_path: Path) -> Path:
    """The same with all 32 of them."""
    return make_dataset(tmp_path / "data")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that relative defaults (model/, log/, results/) fall into it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def full_disk() -> Iterator[None]:
    """Write within a disk on which no file may grow beyond a thousand bytes: the log of the tests, too."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def host() -> Iterator[tuple[str, list[str]]]:
    """An address of this machine, and the list of its connections."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                seen.append(address)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.geojson", seen
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A server of files on this machine, asked again without a pause."""
    monkeypatch.setattr("soilcarbon.io.ranges.time.sleep", lambda _: None)
    with serve() as running:
        yield running


@pytest.fixture
def no_drawing(monkeypatch):
    """Let figures be written empty: drawing one takes longer than what most tests look at. What they show is tested elsewhere."""

    def empty(figure, file, **options):
        PIL.Image.new("RGB", (1, 1)).save(file, options["format"])

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", empty)


@pytest.fixture
def whole_maps():
    """Asked for beside `light_maps`: maps with their pages, styles and STAC items, which take a fifth of the time."""


@pytest.fixture
def light_maps(no_drawing, monkeypatch, request):
    """Let maps be made without what lies beside them, and with a sample of cells that is large enough for these small worlds."""
    monkeypatch.setattr("soilcarbon.mapping.plan._SPOTS", 3)
    monkeypatch.setattr("soilcarbon.mapping.outputs.preview", lambda png, *_: PIL.Image.new("RGB", (1, 1)).save(png))
    if "whole_maps" not in request.fixturenames:
        for name in ("write_page", "_write_for_gis"):
            monkeypatch.setattr(f"soilcarbon.mapping.outputs.{name}", lambda *_: None)


def plot_nothing(monkeypatch):
    """Let the figures of reports be empty files, which are not plotted; for a fixture of a whole module."""
    plain = FigureFolder.draw

    def draw(folder, name, alt, caption, _, *__):
        return plain(folder, name, alt, caption, lambda path, *_: path.write_bytes(b""))

    monkeypatch.setattr(FigureFolder, "draw", draw)


@pytest.fixture(scope="session")
def samples():
    """300 profiles of a region."""
    return make_samples()


@pytest.fixture(scope="session")
def places():
    """150 places of the same region."""
    return make_samples(150, seed=1)


@pytest.fixture(scope="session")
def abroad():
    """400 profiles of another region."""
    return make_samples(400, seed=2, centre=(40.0, 20.0))
