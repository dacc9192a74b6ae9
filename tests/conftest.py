"""What holds in all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from needs import said_last

settings.register_profile("ynet", deadline=None)  # a machine that is shared takes a hundred times as long now and then
settings.load_profile("ynet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed, unless it may_skip")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under --no-skips, what a machine can be given (programs, a compiler) is no reason to skip; a GPU is."""
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if is_skip and item.config.getoption("no_skips") and item.get_closest_marker("may_skip") is None:
        report.outcome, report.longrepr = "failed", f"{_reason(report)}, and nothing may be skipped (--no-skips)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same of a whole file."""
    report = yield
    if report.skipped and collector.config.getoption("no_skips"):
        report.outcome, report.longrepr = "failed", f"{_reason(report)}, and nothing may be skipped (--no-skips)"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """The last lines: what was skipped for a missing program, and how to get it."""
    yield
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:  # it is in the process that shows the run, not in those that run the tests
        for line in said_last([_reason(report) for report in reporter.stats.get("skipped", [])]):
            reporter.write_line(line, yellow=True)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
