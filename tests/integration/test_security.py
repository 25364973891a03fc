"""What others on the network can reach of a running study, and what its keys reach: nothing."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.drivers import driver, listening, processes_of, wait_for

pytestmark = [pytest.mark.slow]

LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
"""127.0.0.1, the same as an IPv6 address, and ::1, as /proc/net writes them."""


def test_a_study_listens_on_the_loopback_address_alone_and_logs_no_keys(corpus_file: Path) -> None:
    study = ["--variants", "baseline,mlp", "--seeds", "2", "--steps", "60", "--scale", "cpu", "--precision", "fp32"]
    keys = {"AWS_ACCESS_KEY_ID": "planned-key", "AWS_SECRET_ACCESS_KEY": "planned-secret"}
    process = driver([*study, "--max-concurrent", "2", "--corpus", str(corpus_file)], **keys)
    try:
        wait_for(lambda: any("Trainable" in line for line in processes_of(process.pid).values()), process)
        processes = processes_of(process.pid)
        sockets = listening(processes)
        assert any("gcs_server" in processes[pid] for pid in sockets.values()), "Ray's own listen to one another"
        heard = {local: processes[pid] for local, pid in sockets.items() if local.split(":")[0] not in LOOPBACK}
        assert heard == {}
        assert [line for line in map(processes.get, sockets.values()) if line and "dashboard.py" in line] == []
        (session,) = {found[1] for line in processes.values() if (found := re.search(r"--session-dir=(\S+)", line))}
        logs = {path.name: path.read_text() for path in Path(session, "logs").iterdir() if path.is_file()}
        assert "PL_DISABLE_FORK" in logs["runtime_env_agent.log"], "Ray logs what Tune sends to workers"
        assert [name for name, log in logs.items() if any(key in log for key in keys.values())] == []
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
