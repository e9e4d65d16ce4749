import os
import signal
import subprocess
import sys
import textwrap

import pytest

from loadtest.children import ChildFailed, started, wait_until


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - procfs
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_ends_with_the_block(tmp_path):
    with started("sleeper", ["sleep", "60"], tmp_path / "log") as child:
        assert is_running(child.process.pid)
    assert child.process.returncode == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    with started("stubborn", [sys.executable, "-c", script], tmp_path / "log", stop_s=0.1) as child:
        wait_until(child, lambda: "up" in child.tail())
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_ends_early_is_an_error_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "print('no such campaign file'); raise SystemExit(2)"]
    with (
        started("bidder", command, tmp_path / "log") as child,
        pytest.raises(ChildFailed, match=r"(?s)bidder ended with status 2.*no such campaign file"),
    ):
        wait_until(child, lambda: False)


def test_a_child_that_is_never_ready_is_an_error(tmp_path):
    with (
        started("sleeper", ["sleep", "60"], tmp_path / "log") as child,
        pytest.raises(ChildFailed, match="not ready within"),
    ):
        wait_until(child, lambda: False, timeout_s=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_killing_the_parent_leaves_no_child(tmp_path):
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from loadtest.children import started
        with started("sleeper", ["sleep", "60"], Path({str(tmp_path)!r}) / "log") as child:
            print(child.process.pid, flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        # The kernel delivers the signal while it reaps the parent; reading the state until it shows is not a sleep.
        for _ in range(100_000):
            if not is_running(pid):
                break
        assert not is_running(pid)
