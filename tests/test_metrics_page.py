"""The page on metrics and tags has what the vocabulary has; test_notebooks holds it against what notebooks record."""

from described import TAGS, described_metrics, described_tags, matches

from resflow.workflow.reports.metrics import GAP, HELD_OUT, METRICS


def test_every_tag_for_machines_is_described_and_no_other():
    assert {tag for tag in described_tags() if tag.startswith("resflow.")} == TAGS


def test_every_metric_in_a_section_is_described_and_those_to_compare_by_stand_in_none():
    shown = list(described_metrics())
    for metric in METRICS.values():
        assert sum(matches(each, metric) for each in shown) == 1, metric
    plain = [name for name in shown if "/" not in name]
    assert {GAP, HELD_OUT, "objective"} < set(plain)
    assert len(plain) <= 6
    assert shown[: len(plain)] == plain


def test_names_of_version_0_1_0_are_no_names_of_now():
    assert not METRICS.keys() & set(METRICS.values())
    assert len(set(METRICS.values())) == len(METRICS)
