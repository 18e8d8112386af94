"""The thread that writes the page while a run goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sdpo_megatron.errors import SdpoError
from sdpo_megatron.report import writer
from sdpo_megatron.report.writer import ReportWriter
from tests.report.runs import write_run


def test_the_page_is_there_at_the_end_and_holds_the_last_step(tmp_path: Path) -> None:
    run = write_run(tmp_path, steps=1)
    warnings: list[str] = []
    with ReportWriter(run, warnings.append) as pages:
        pages.after_step()
        write_run(tmp_path, steps=3)
        pages.after_step()
    assert warnings == []
    assert (run / "report.html").read_text().count('id="block-0-') == 6
    assert not any(thread.name == "report" for thread in threading.enumerate())


def test_a_step_never_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def slow(*_args: object) -> None:
        writing.set()
        assert go_on.wait(30)

    monkeypatch.setattr(writer, "write_report", slow)
    with ReportWriter(tmp_path, lambda _text: None) as pages:
        pages.after_step()
        assert writing.wait(30)
        for _ in range(100):
            pages.after_step()  # returns while the thread is in the middle of a page
        go_on.set()


def test_a_run_does_not_fail_for_its_page_and_hears_of_it_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    with ReportWriter(tmp_path / "nowhere", warnings.append) as pages:
        for _ in range(3):
            pages._write(float("inf"))
    (warning,) = warnings
    assert "report.html could not be written" in warning
    assert "is no run folder" in warning


def test_nothing_is_written_once_the_folder_is_anothers(tmp_path: Path) -> None:
    run = write_run(tmp_path, steps=1)

    def may_write() -> None:
        raise SdpoError("taken over")

    warnings: list[str] = []
    with ReportWriter(run, warnings.append, may_write) as pages:
        pages.after_step()
    assert not (run / "report.html").exists()
    assert "taken over" in warnings[0]
