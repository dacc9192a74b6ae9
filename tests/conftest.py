"""Settings for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from needs import said_last

settings.register_profile("ynet", deadline=None)  # a shared machine is sometimes a hundred times slower
settings.load_profile("ynet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails, unless it is marked may_skip")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skip for a missing program or compiler into a failure under --no-skips; a missing GPU may still skip."""
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if is_skip and item.config.getoption("no_skips") and item.get_closest_marker("may_skip") is None:
        report.outcome, report.longrepr = "failed", f"{_reason(report)}, and nothing may be skipped (--no-skips)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Do the same for a whole file."""
    report = yield
    if report.skipped and collector.config.getoption("no_skips"):
        report.outcome, report.longrepr = "failed", f"{_reason(report)}, and nothing may be skipped (--no-skips)"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Print at the end which tests were skipped for missing programs, and the command that installs them."""
    yield
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:  # only the controlling process has it, not the workers
        for line in said_last([_reason(report) for report in reporter.stats.get("skipped", [])]):
            reporter.write_line(line, yellow=True)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
