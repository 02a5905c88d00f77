"""Worker processes that end with their parent.

In: nothing. Out: `start_worker`, to be run first in every process of a pool.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait as wait_for


def start_worker() -> None:
    """Prepare a worker process: Ctrl-C is its parent's business, and it does not outlive a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
