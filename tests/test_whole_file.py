"""Pages that are written are there whole or not at all, and a former one stays until then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fabricated_runs import fabricate
from small_disk import small_disk
from small_notebooks import resflow_here

from resflow.workflow.whole_file import written_whole

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def test_file_is_replaced_at_the_end_alone(tmp_path):
    target, link = tmp_path / "page.html", tmp_path / "link.html"
    target.write_text("former")
    target.chmod(0o640)
    link.symlink_to(target)
    with pytest.raises(UnicodeEncodeError), written_whole(link) as path:
        path.write_text("half \udcff", encoding="utf-8")
    assert target.read_text() == "former"
    with written_whole(link) as path:
        path.write_text("whole")
        assert target.read_text() == "former"
    assert (target.read_text(), target.stat().st_mode & 0o777, link.is_symlink()) == ("whole", 0o640, True)
    assert sorted(os.listdir(tmp_path)) == ["link.html", "page.html"]


@pytest.mark.parametrize("former", [None, "former"])
def test_full_disk_leaves_no_half_page_and_the_former_one(tmp_path, former):
    client = fabricate(project := tmp_path / "project")
    first, second = (
        run.info.run_id for run in client.search_runs(["1"], "tags.`resflow.role` = 'member'", max_results=2)
    )
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        page = disk.folder / "page.html"
        for command in (["report", "skip", str(page)], ["diff", first, second, "--html", str(page)]):
            disk.empty()
            if former:
                page.write_text(former)
            disk.fill(leaving=8192)
            done = resflow_here(project, *command)
            assert done.returncode == 1, done.stderr
            assert "No space left on device" in done.stderr
            assert (page.read_text() if page.exists() else None) == former
            assert {each.name for each in Path(disk.folder).iterdir()} <= {"page.html", "filler"}
