"""Run a sweep once: hold it, open its parent run, drive, and leave a parent that says truly how it ended."""

from __future__ import annotations

from resflow.workflow.interruption import Interruptions
from resflow.workflow.sweeps.driver import Driver
from resflow.workflow.sweeps.parent import held, open_parent
from resflow.workflow.sweeps.progress import Display
from resflow.workflow.sweeps.sweep import Options, Result, Sweep

__all__ = ["run_sweep"]


def run_sweep(sweep: Sweep, options: Options, display: Display) -> tuple[list[Result], str]:
    """Run what is missing of a sweep.

    Returns:
        What becomes of each of its points, and what could not be recorded of the sweep itself; "" if all was.

    Raises:
        InvalidInputError: If another process drives the sweep, or no cluster answers.
    """
    with Interruptions() as interruptions, held(sweep.client, sweep.file):
        parent = open_parent(sweep.client, sweep.file)
        driver = Driver(sweep, options, display, parent)
        try:
            with interruptions.raised():
                driver.prepare()
                with display:
                    driver.run()
        except BaseException as error:
            driver.stop(f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        return driver.conclude()
