"""What is to be executed for a sweep file: which points, what makes each the same as another, and which comes next."""

from resflow.workflow.sweeps.plan.points import Execution, Planner, Point, Result

__all__ = ["Execution", "Planner", "Point", "Result"]
