"""Hack rates and alarms, on streams of verdicts written down."""

from __future__ import annotations

import json

import pytest

from postgrad.kernels.guard.monitor import Monitor, Thresholds, of_hacks
from postgrad.kernels.verdict import Reason


def test_rates_are_shares_of_the_newest() -> None:
    monitor = Monitor(window=4)
    for status, reasons in [
        ("rejected", ["T01"]),
        ("accepted", []),
        ("rejected", ["T01", "C02", "T01"]),
        ("unchecked", ["X"]),
    ]:
        monitor.add(status, reasons)
    assert monitor.rates() == pytest.approx({"C02": 1 / 3, "T01": 2 / 3})
    for _ in range(3):
        monitor.add("accepted", ["T01"])
    assert monitor.rates() == {"C02": 0.25, "T01": 0.25}
    assert monitor.metrics() == {"hacks/C02": 0.25, "hacks/T01": 0.25, "hacks/any": 0.25, "hacks/unchecked": 1.0}


def test_a_plague_rings_by_its_rate_and_a_new_one_by_its_surge() -> None:
    monitor = Monitor(window=20, thresholds=Thresholds(rate=0.5, surge=3.0, least=4))
    for _ in range(20):
        monitor.add("accepted")
    assert monitor.alarms() == []
    for _ in range(4):
        monitor.add("rejected", ["C01"])
    # 4 of 20 is below the rate; before the window there were none of them in 4.
    assert [(alarm.kind, alarm.reason, alarm.share) for alarm in monitor.alarms()] == [("surge", "C01", 0.2)]
    for _ in range(6):
        monitor.add("rejected", ["C01"])
    assert {alarm.kind for alarm in monitor.alarms()} == {"rate", "surge"}


def test_honest_failures_are_no_hacks() -> None:
    told = [Reason.WRONG_OUTPUT, Reason.C05_STALE_RESULT, Reason.BUILD_FAILED, "SOMETHING_OF_LATER"]
    assert of_hacks(told) == [Reason.C05_STALE_RESULT]


def test_few_catches_ring_nothing() -> None:
    monitor = Monitor(window=10)
    for _ in range(4):
        monitor.add("rejected", ["C01"])
    assert monitor.alarms() == []


def test_many_suspicious_verdicts_ring() -> None:
    monitor = Monitor(window=10)
    for status in ["accepted"] * 9 + ["suspicious"]:
        monitor.add(status, [])
    (alarm,) = monitor.alarms()
    assert (alarm.kind, alarm.reason, alarm.share) == ("suspicious", None, 0.1)


def test_an_empty_monitor_says_nothing_and_a_window_of_none_is_refused() -> None:
    assert Monitor().alarms() == []
    assert Monitor().metrics() == {"hacks/unchecked": 0.0}
    with pytest.raises(ValueError, match="at least 1"):
        Monitor(window=0)


def test_its_state_goes_through_json_and_on() -> None:
    one, other = Monitor(window=5), Monitor(window=5)
    for index in range(12):
        one.add("rejected" if index % 3 else "suspicious", ["C01"] if index % 2 else ["T01"])
    other.load(json.loads(json.dumps(one.state())))
    for monitor in (one, other):
        monitor.add("rejected", ["T05"])
    assert (one.metrics(), one.alarms(), one.state()) == (other.metrics(), other.alarms(), other.state())
