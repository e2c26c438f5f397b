"""What the test benchmark reads from a JUnit report."""

from __future__ import annotations

import suite

REPORT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" tests="3">
<testcase classname="tests.a" name="test_x[1]" time="0.5"/>
<testcase classname="tests.a" name="test_y" time="2.25"><failure message="no">trace</failure></testcase>
<testcase classname="tests.b" name="test_z" time="0.1"><error message="set-up">trace</error></testcase>
</testsuite></testsuites>"""


def test_times_and_failures() -> None:
    times, failed = suite.parse_junit(REPORT)
    assert times == {"tests.a::test_x[1]": 0.5, "tests.a::test_y": 2.25, "tests.b::test_z": 0.1}
    assert failed == 2
