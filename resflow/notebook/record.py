"""A notebook's last line: everything that its run is to keep, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from resflow.notebook.claim import Claim
from resflow.notebook.trained import Trained, TrainedGroups
from resflow.notebook.trained_stream import TrainedStream
from resflow.plots.labels import verdict_name, with_signs
from resflow.workflow import names
from resflow.workflow.records import Run
from resflow.workflow.reports.facts import Fact, facts_from, facts_tag
from resflow.workflow.reports.metrics import METRICS, as_recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["record"]


def record(
    run: Run,
    *,
    name: str,
    of: str = "",
    summary: str,
    claim: Claim | None = None,
    trained: Trained | TrainedGroups | TrainedStream | None = None,
    about: str = "",
    facts: Mapping[str, str] | None = None,
    history: pd.DataFrame | Sequence[pd.DataFrame] = (),
    metrics: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Record what came out, show the summary, and say that the notebook is through.

    Args:
        run: The notebook's run.
        name: What the run is called from now on: what came out.
        of: Behind it, what that is of. Of a sweep's run, which these have in common, what varies takes its place.
        summary: What came out, in Markdown: the run's description. Its verdict is put in words for people, and its
            numbers get true minus signs.
        claim: What was put to the test.
        trained: The model or models that were trained, or the residual stream of one, which are kept with the run, so
            that what was computed from them can be again.
        about: What verdict, objective and gaps are of, where the claim is about something else, as "trained unit".
        facts: What else the run's report is to open with: what it is about, and what came out.
        history: Values along training, as for `Run.log_history`; several frames, if they have steps of their own. They
            become metrics by the names that `METRICS` has for them, or else by their own.
        metrics: Values of the whole run, named likewise. One that the history has as well is left to the history.
        tags: What kind of outcome it is, such as the verdict.
        tables: Data frames by their names.
        figures: Figures by their names.
    """
    from IPython.display import Markdown, display

    if claim is not None:
        run.log_claim(claim.name, holds=claim.holds, margin=claim.margin)
    histories = [history] if isinstance(history, pd.DataFrame) else history
    for frame in histories:
        run.log_history(frame.rename(columns=METRICS))
    along = {column for frame in histories for column in frame}
    run.log_metrics({as_recorded(key): value for key, value in (metrics or {}).items() if key not in along})
    last = {key: value for frame in histories for key, value in frame.iloc[-1].items()}
    verdict = str((tags or {}).get(names.VERDICT, ""))
    told = [*facts_from({**(metrics or {}), **last}, verdict, about), *(Fact(*pair) for pair in (facts or {}).items())]
    run.set_tags({**(tags or {}), **facts_tag(told)})
    for key, table in (tables or {}).items():
        run.log_table(table, key)
    for key, figure in (figures or {}).items():
        run.log_figure(figure, key)
    if trained is not None:
        trained.keep(run)
    summary = with_signs(summary.replace(verdict, verdict_name(verdict)))
    run.describe(summary)
    run.rename(", ".join(filter(None, [name, run.stored.data.tags.get(names.POINT, of)])))
    display(Markdown(summary))
    run.finish()
