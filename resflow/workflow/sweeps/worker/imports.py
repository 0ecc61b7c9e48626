"""What workers of this machine need, and servers of points, imported in one process, from which all are forked.

`multiprocessing` imports this module in its server of forks, and nothing else does. No import may connect to anything
or start a thread: neither would survive a fork.
"""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module

from resflow.workflow.forking.server import end_with
from resflow.workflow.sweeps.worker.cluster import SAFE_PATH
from resflow.workflow.sweeps.worker.process import import_all


def _end_with(server: int) -> None:
    if os.getppid() == server:  # and not in what a worker forks
        end_with(server)


end_with(os.getppid())  # in the middle of the imports, too
os.register_at_fork(after_in_child=partial(_end_with, os.getpid()))
if os.environ.get(SAFE_PATH) == __name__:
    del os.environ[SAFE_PATH]
for name in (
    "resflow.workflow.store",  # which tells MLflow to be quiet
    "resflow.workflow.cli",
    "resflow.workflow.sweeps.worker.attempt",
    "distributed.nanny",
):
    import_module(name)
import_all()
