"""The first signal ends in order, the second at once, and no library can swallow one for good."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from selfalign.errors import SIGNALS, Interrupted, handle_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_and_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, handle_signals():
        os.kill(os.getpid(), number)
        signal.pause()
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is before


def test_a_swallowed_signal_is_raised_again() -> None:
    with pytest.raises(Interrupted), handle_signals() as pending:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        with pytest.raises(Interrupted):
            pending.check()


def test_without_a_signal_nothing_happens() -> None:
    with handle_signals() as pending:
        pending.check()


def test_the_second_signal_exits_at_once() -> None:
    code = (
        "import os, signal\nfrom selfalign.errors import handle_signals\n"
        "with handle_signals():\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGINT); signal.pause()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


def test_outside_the_main_thread_it_steps_aside() -> None:
    seen: list[str] = []

    def work() -> None:
        with handle_signals() as pending:
            pending.check()
            seen.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["worked"]


def test_a_process_ends_with_its_standard_input() -> None:
    code = "import time; from selfalign.errors import die_with_parent; die_with_parent(); print('up', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child:
        assert child.stdout.readline() == b"up\n"
        child.stdin.write(b"heard and passed over")
        child.stdin.flush()
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(timeout=30) == 1
