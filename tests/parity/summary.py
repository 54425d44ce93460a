"""The line of the terminal summary that counts parity cases; a hook, since skipped tests are easily overlooked."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, "when", "") == "call"]
    told = [(r.outcome, *p) for r in reports for p in r.user_properties if str(p[0]).startswith("parity")]
    if not told:
        return
    agreed = sum(name == "parity" and outcome == "passed" for outcome, name, _ in told)
    failed = sum(name == "parity" and outcome == "failed" for outcome, name, _ in told)
    lacking = Counter(value for _, name, value in told if name == "parity_unsupported")
    terminalreporter.write_line(f"parity: {agreed} agreed, {failed} disagreed, {len(lacking)} kinds not supported yet")
    systems = sorted({kind.split()[0] for kind in lacking})
    for system in systems:
        kinds = [f"{kind.split()[1]} x{count}" for kind, count in sorted(lacking.items()) if kind.split()[0] == system]
        terminalreporter.write_line(f"  not supported yet: {system}: {', '.join(kinds)}")
