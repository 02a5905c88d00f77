"""Temporary files, locks, checksums and signals: no link is followed, nothing of another's is removed, nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from damage import damage

from soilcarbon.io import files
from soilcarbon.io.files import UserError, atomic_write, check_writable, locked, write_text
from soilcarbon.io.resumption import is_sealed, seal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and locks")


def heed_signals():
    """Undo what a shell's background and nohup do: they let their children ignore these signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def script(tmp_path):
    """Start a Python script that says "ready" when it is; return the process once it has."""
    started = []

    def begin(code, **more):
        words = [sys.executable, "-c", code]
        more = {"preexec_fn": heed_signals} | more
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, **more)
        started.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def gone(pid, within=1.0):
    """Return whether a process that is no child of this one ends within a time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


# --- temporary files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".writable", ".lock", ".x.txt.lock", ".x.txt.partial"])
def test_what_lies_behind_a_link_is_not_touched(tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(precious)
    try:
        check_writable(tmp_path / "out")
        with locked(tmp_path / "out", files=[tmp_path / "out" / "x.txt"]):
            write_text(tmp_path / "out" / "x.txt", "new")
    except UserError as error:
        assert "is a link" in str(error)
    assert precious.read_text() == "mine"
    assert (tmp_path / "out" / name).is_symlink()


def test_a_file_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "x.txt").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "x.txt", "new")
    assert ((tmp_path / "precious").read_text(), (tmp_path / "x.txt").read_text()) == ("mine", "new")
    assert not (tmp_path / "x.txt").is_symlink()


def test_two_processes_probe_one_folder_without_refusals(script, tmp_path):
    code = """
import os, time
from pathlib import Path
from soilcarbon.io import files
os.fsync = lambda _: None
print("ready", flush=True)
while not Path("both").exists():
    time.sleep(0.001)
for _ in range(100):
    files.check_writable(Path("out"))
    files._swept.clear()
    files.write_text(Path("out/x"), "x" * 100)
"""
    both = [script(code), script(code)]
    (tmp_path / "both").touch()
    assert [process.wait(60) for process in both] == [0, 0], [process.stderr.read()[-300:] for process in both]
    assert names(tmp_path / "out") == ["x"]


def test_files_left_by_a_killed_process_are_removed_at_the_next_run_and_no_others(script, tmp_path):
    code = """
import time
from pathlib import Path
from soilcarbon.io.files import atomic_write
with atomic_write(Path("x")) as file:
    print("ready", flush=True)
    time.sleep(60)
"""
    killed, living = script(code), script(code)
    killed.kill()
    killed.wait()
    left = {path.name for path in tmp_path.glob(".soilcarbon-*.partial")}
    assert len(left) == 2
    others = {"mine.partial", ".soilcarbon-notes.partial"}
    for name in others:
        (tmp_path / name).write_text("mine")
    link = ".soilcarbon-0123456789abcdef.partial"
    (tmp_path / link).symlink_to(tmp_path / "mine.partial")
    files._swept.discard(tmp_path)
    check_writable(tmp_path)
    now = set(names(tmp_path))
    assert others | {link} <= now and len(now & left) == 1
    living.kill()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_that_the_user_wants(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask


# --- locks -------------------------------------------------------------------------------------------------------------

HOLD = """
import time
from pathlib import Path
from soilcarbon.io.files import locked
with locked(Path("run"), files=[Path("model/a.pth")]):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_lock_refuses_the_same_name_only_and_ends_with_its_process(script, tmp_path):
    holder = script(HOLD)
    for folders, wanted in (([tmp_path / "run"], []), ([], [tmp_path / "model" / "a.pth"])):
        with pytest.raises(UserError, match="another run is at work here"), locked(*folders, files=wanted):
            pass
    with locked(tmp_path / "other", files=[tmp_path / "model" / "b.pth"]):  # another run in the same folder of models
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run", files=[tmp_path / "model" / "a.pth"]):
        pass
    assert names(tmp_path) == ["model", "run"]


def test_many_processes_at_once_never_hold_a_lock_together(script, tmp_path):
    code = """
import os, time
from pathlib import Path
from soilcarbon.io.files import UserError, locked
print("ready", flush=True)
while not Path("all").exists():
    time.sleep(0.001)
held = 0
while held < 40:
    try:
        with locked(files=[Path("x")]):
            os.close(os.open("alone", os.O_CREAT | os.O_EXCL))
            time.sleep(0.0002)
            os.unlink("alone")
            held += 1
    except UserError:
        time.sleep(0.0002)
"""
    every = [script(code) for _ in range(3)]
    (tmp_path / "all").touch()
    assert [process.wait(60) for process in every] == [0, 0, 0], [process.stderr.read()[-300:] for process in every]


# --- checksums ---------------------------------------------------------------------------------------------------------


def test_a_result_is_taken_for_finished_as_it_was_sealed_and_nothing_else(tmp_path, caplog):
    path = tmp_path / "part.csv"
    write_text(path, "a\n1\n")
    assert not is_sealed(path)  # interrupted before
    seal(path)
    assert is_sealed(path)
    if (tool := Path("/usr/bin/sha256sum")).exists():
        assert subprocess.run([tool, "-c", "part.csv.sha256"], cwd=tmp_path, capture_output=True).returncode == 0
    for content in ("a\n2\n", "a\n1", "", "a\n1\n\n"):
        path.write_text(content)
        assert not is_sealed(path)
        assert "it is made again" in caplog.text
    write_text(path, "a\n1\n")
    path.rename(tmp_path / "other.csv")
    (tmp_path / "part.csv.sha256").rename(tmp_path / "other.csv.sha256")
    assert not is_sealed(tmp_path / "other.csv")  # another part under its name
    assert not is_sealed(path)


@pytest.mark.parametrize("ending", [".csv", ".npz"])
def test_no_damage_is_believed(tmp_path, ending):
    paths = [tmp_path / f"{k}{ending}" for k in range(2)]
    for seed in range(60):
        for k, path in enumerate(paths):
            if ending == ".csv":
                write_text(path, "profile_id,observed,predicted\n" + "".join(f"p{k}{n},{n}.5,{n}.25\n" for n in range(20)))
            else:
                np.savez(path, values=np.arange(20.0) + k)
            seal(path)
        assert is_sealed(*paths)
        damage(paths, seed)
        assert not is_sealed(paths[0]) and not is_sealed(paths[1]), seed


# --- signals -----------------------------------------------------------------------------------------------------------

WRITES = """
import sys, time
from pathlib import Path
from soilcarbon.io import files, interruption
def main():
    with files.locked(Path("run")), interruption.temporary_folder(Path("run")) as folder:
        (folder / "part").write_text("x")
        with files.atomic_write(Path("run/x")) as file:
            file.write(b"half")
            print("ready", flush=True)
            WAIT
sys.exit(files.run(main))
"""
SLEEP, BUSY = "time.sleep(60)", "sum(k for k in range(10**10))"
SWALLOW = "exec('while True:\\n  try:\\n    time.sleep(0.1)\\n  except BaseException: pass')"


@pytest.mark.parametrize(
    ("number", "status", "wait"),
    [
        (signal.SIGINT, 130, SLEEP),
        (signal.SIGTERM, 143, SLEEP),
        pytest.param(signal.SIGHUP, 129, SLEEP, marks=pytest.mark.slow),
        (signal.SIGINT, 130, BUSY),
        (signal.SIGTERM, 143, SWALLOW),
    ],
)
def test_a_signal_ends_a_run_with_one_line_and_leaves_nothing(script, tmp_path, number, status, wait):
    process = script(WRITES.replace("WAIT", wait))
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (status, "interrupted\n")
    assert names(tmp_path) == ["run"]


def test_a_pool_without_workers_yet_leaves_no_semaphores_to_be_warned_of(script):
    process = script("""
import time
from soilcarbon.io.files import run
from soilcarbon.parallel import worker_pool
def work():
    with worker_pool(2) as pool:
        print("ready", flush=True)
        time.sleep(60)
run(work)
""")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (143, "interrupted\n")


def test_a_signal_that_is_ignored_stays_ignored(script):
    process = script(WRITES.replace("WAIT", "time.sleep(0.3)"), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


@pytest.fixture
def interruptible():
    """Whatever started the tests, SIGINT has Python's own handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_handlers_are_as_before_once_a_command_has_ended(interruptible):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)], signal.pthread_sigmask(signal.SIG_BLOCK, [])
    inside = []
    assert files.run(lambda: inside.append(signal.getsignal(signal.SIGINT))) == 0
    assert inside != before[0][:1]
    after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)], signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert after == before


def test_a_command_can_be_interrupted_while_it_imports(tmp_path):
    """At moments from the start of the interpreter on: of Python itself, before any code of ours, only that it ends."""
    for wait in (0.1, 0.4):
        words = [sys.executable, "-m", "soilcarbon", "train", "--data_dir", "nowhere", "--run", "x"]
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=heed)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert "Traceback" not in errors or "soilcarbon/commands" not in errors
        if "Traceback" not in errors and process.returncode == 130:
            assert errors == "interrupted\n"


POOL = """
import sys, time
from pathlib import Path
from soilcarbon.io import files
from soilcarbon.parallel import worker_pool
def work(k):
    Path(f"at_work_{k}").touch()
    time.sleep(60)
def main():
    with worker_pool(2) as pool:
        busy = [pool.submit(work, k) for k in range(2)]
        while WAIT and len(list(Path().glob("at_work_*"))) < 2:
            time.sleep(0.02)
        print("ready", flush=True)
        print(*pool._processes, flush=True)
        [each.result() for each in busy]
if __name__ == "__main__":
    sys.exit(files.run(main))
"""


@pytest.mark.parametrize(
    ("number", "status", "line", "at_work"),
    [
        (signal.SIGINT, 130, "interrupted\n", False),  # while they start
        pytest.param(signal.SIGKILL, -9, None, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "interrupted\n", True, marks=pytest.mark.slow),
        (signal.SIGKILL, -9, None, True),
    ],
)
def test_worker_processes_end_with_their_parent(script, tmp_path, number, status, line, at_work):
    path = tmp_path / "pool.py"
    path.write_text(POOL.replace("WAIT", str(at_work)))
    process = script(f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')", start_new_session=True)
    workers = list(map(int, process.stdout.readline().split()))
    assert len(workers) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    started = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert line is None or errors == line
    assert all(gone(each, within=1.0 if at_work else 15) for each in workers)
    assert time.monotonic() - started < (3 if at_work else 20)


# --- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_a_terminal_cannot_show_are_no_error(encoding):
    code = "import sys; from soilcarbon.io import files; sys.exit(files.run(lambda: print('Böden: 5 µg → Ω')))"
    words, more = [sys.executable, "-c", code], os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(words, env=more, capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_that_nobody_reads_and_a_full_one_give_no_traceback():
    words = [sys.executable, "-c", "import sys; from soilcarbon.io import files; sys.exit(files.run(lambda: print('x' * 100_000)))"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=20)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, timeout=20)
    assert (done.returncode, done.stderr) == (2, b"error: No space left on device\n")


def test_a_folder_that_is_not_utf_8_is_written_or_refused_in_one_line(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xf6den"))
    write_text(folder / "x.yaml", f"folder: {folder}\n")
    (folder / "x.yaml").read_text(encoding="utf-8")
    with atomic_write(folder / os.fsdecode(b"\xff")) as file:
        file.write(b"x")
    code = f"import sys; from soilcarbon.io import files; sys.exit(files.run(lambda: files.read_yaml(files.Path({str(folder)!r}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr
