"""Nobody reads what the nodes say: all output goes into pipes of 4 KiB, and leadership moves until they are full.

Once all five nodes stood still after nine moves, for each thread with something to say waited for the pipe.
"""

import fcntl
import os
import time

from harness import Cluster, run

F_SETPIPE_SZ = 1031
MOVES = 12


def unread():
    """The writing end of a pipe; the other one is kept open and never read."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    return reading, writing


def trial(dir):
    cluster = Cluster(dir, start=False)
    pipes = []
    try:
        for node in cluster:
            reading, writing = unread()
            pipes.append(reading)
            node.start(stdout=writing, stderr=writing)
            os.close(writing)
        cluster.whole()
        cluster["a1"].client.create_journal("j")
        for move in range(MOVES):
            cluster.transfer("a2" if move % 2 == 0 else "a1")
            cluster["b1"].client.append("j", [f"k{move}"])
        slowest = 0.0
        for node in cluster:
            began = time.monotonic()
            assert node.client.status(timeout=1.0).node == node.name
            slowest = max(slowest, time.monotonic() - began)
        assert len(cluster["c1"].client.read("j")) == MOVES
        # Nor does the end wait.
        cluster["b2"].terminate()
        assert cluster["b2"].wait_exit(10) == 0
        return f"{MOVES} moves, every status within {slowest * 1000:.0f} ms"
    finally:
        cluster.stop()
        for reading in pipes:
            os.close(reading)


if __name__ == "__main__":
    run(trial)
