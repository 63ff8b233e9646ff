"""What OpenVINO leaves behind when something of it is freed in another thread than it was made in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FREED_ELSEWHERE = """
import signal, subprocess, sys, threading
import i3d_deploy as i3d

held = [i3d.load(sys.argv[1], device="cpu")]
held[0].predict(sys.argv[2])
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
told = []
signal.signal(signal.SIGCHLD, lambda *_: told.append("a child has ended"))
subprocess.run(["true"], check=True)
print(*told)
"""


def test_a_signal_after_a_recognizer_was_freed_in_another_thread(tiny_exports: Path, clip: Path) -> None:
    command = [sys.executable, "-c", FREED_ELSEWHERE, str(tiny_exports / "tiny.xml"), str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a child has ended\n"), done.stderr
