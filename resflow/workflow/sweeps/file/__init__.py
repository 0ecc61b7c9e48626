"""What a sweep file says: read, checked, and refused with the line where it is wrong."""

from resflow.workflow.sweeps.file.sweep_file import SweepFile, read_sweep_file

__all__ = ["SweepFile", "read_sweep_file"]
