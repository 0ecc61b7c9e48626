"""Reports as PDF."""

from __future__ import annotations

import os
import stat

import chromium
import pytest
from small_notebooks import resflow_here

from resflow.errors import InvalidInputError
from resflow.workflow.reports import pdf


@pytest.fixture
def as_browser(tmp_path, monkeypatch):
    def named(*lines):
        program = tmp_path / "browser"
        program.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CHROMIUM", str(program))

    return named


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
def test_page_is_printed_whole_and_leaves_nothing_beside(tmp_path, monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    pdf.write_pdf("<title>t</title><p>text</p>", tmp_path / "a b.pdf")
    assert (tmp_path / "a b.pdf").read_bytes().startswith(b"%PDF")
    assert os.listdir(tmp_path) == ["a b.pdf"]


def test_browser_that_prints_nothing_or_never_ends_leaves_the_file_as_it_was(tmp_path, as_browser):
    target = tmp_path / "report.pdf"
    target.write_text("former")
    as_browser("echo no display >&2", "exit 1")
    with pytest.raises(InvalidInputError, match=r"printed nothing .no display."):
        pdf.write_pdf("<p>x</p>", target)
    as_browser("sleep 60 &", "sleep 60")
    with pytest.raises(InvalidInputError, match=r"did not print within 0.5 s"):
        pdf.write_pdf("<p>x</p>", target, seconds=0.5)
    assert target.read_text() == "former"
    assert sorted(os.listdir(tmp_path)) == ["browser", "report.pdf"]


def test_without_a_browser_nothing_is_begun_and_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CHROMIUM", "no-such-program")
    ended = resflow_here(tmp_path, "report", "anything", "--pdf")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "resflow: error: CHROMIUM='no-such-program': there is no such program: name a Chromium, or leave it unset"
    ]
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-program",))
    with pytest.raises(InvalidInputError, match="there is no Chromium here"):
        pdf.browser()
    assert os.listdir(tmp_path) == []
