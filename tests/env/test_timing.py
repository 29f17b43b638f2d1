"""Timing of alternatives: in turn, the shortest time counts, the CPU time of this process."""

import subprocess
import sys
import time

from mlm.env.timing import MIN_ROUNDS, shortest_seconds


def test_the_functions_are_called_in_turn_after_a_warm_up():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = shortest_seconds(functions, 0.0)
    assert list(seconds) == list("abc") and min(seconds.values()) >= 0
    assert calls == list("abc") * (1 + MIN_ROUNDS)


def test_more_rounds_are_timed_while_there_is_time_left():
    calls = []
    shortest_seconds({"a": lambda: calls.append(sum(range(1000)))}, 0.05)
    assert len(calls) > 10 * MIN_ROUNDS


def test_the_faster_function_is_found_beside_a_busy_process():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        functions = {"slow": lambda: sum(range(20_000)), "fast": lambda: sum(range(10_000))}
        for _ in range(3):
            seconds = shortest_seconds(functions, 0.02)
            assert 1.3 < seconds["slow"] / seconds["fast"] < 3
    finally:
        busy.kill()
        busy.wait()


def test_waiting_is_not_counted_where_cpu_time_is_measured():
    if time.get_clock_info("process_time").resolution < 1e-4:
        assert shortest_seconds({"sleeps": lambda: time.sleep(0.01)}, 0.0)["sleeps"] < 0.005
