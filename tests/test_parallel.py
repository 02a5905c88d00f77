"""Tasks on worker processes: finished ones are not run again, errors are named, and the parent's process is left as it was."""

import os

import numpy as np
import pytest

from soilcarbon.io.files import UserError
from soilcarbon.parallel import arrays_task, read_arrays, run_tasks, worker_pool


def squares(n):
    if n < 0:
        raise UserError("negative")
    return {"values": np.arange(n) ** 2, "threads": np.array(os.environ.get("OMP_NUM_THREADS", ""))}


def end():
    os._exit(9)


def test_tasks_leave_their_arrays_and_are_not_run_again(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tasks = [arrays_task(tmp_path / f"{n}.npz", squares, (n,)) for n in (2, 3)]
    run_tasks(tasks, 2, "squares")
    assert [read_arrays(task.path)["values"].tolist() for task in tasks] == [[0, 1], [0, 1, 4]]
    assert read_arrays(tasks[0].path)["threads"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ  # of the workers alone
    before = tasks[0].path.stat().st_mtime_ns
    run_tasks(tasks, 1, "squares")
    assert tasks[0].path.stat().st_mtime_ns == before
    tasks[1].path.write_bytes(b"torn")
    with pytest.raises(UserError, match="not readable; remove it"):
        read_arrays(tasks[1].path)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_task_and_leaves_no_file(tmp_path, workers):
    tasks = [arrays_task(tmp_path / f"{name}.npz", squares, (n,)) for name, n in (("good", 1), ("bad", -1))]
    with pytest.raises(UserError, match="bad: negative"):
        run_tasks(tasks, workers, "squares")
    assert not tasks[1].path.exists()


def test_a_process_that_is_killed_is_an_error_in_plain_words():
    with pytest.raises(UserError, match="a process ended"), worker_pool(1) as pool:
        pool.submit(end).result()
