"""SIGTERM of the leader under load, with everything open that a caller can leave open: somebody else leads before anything is
refused, and the process ends soon.

Once an idle AppendStream or a bare connection cost 3.2 s without an acknowledgement in the whole cluster, and 6 s until the end.
"""

import queue
import socket
import threading
import time

from harness import Client, Cluster, Load, run, wait_for

# Promised are 2 s and 100 ms; the machine may be busy.
EXIT_MAX = 3.0
GAP_MAX = 0.5


def hold(stub, *arguments):
    """Opens a stream and reads whatever comes, for as long as it lives."""
    stream = stub(*arguments)

    def read():
        try:
            for _ in stream:
                pass
        except Exception:  # it ends with the node
            pass

    threading.Thread(target=read, daemon=True).start()
    return stream


def trial(dir):
    with Cluster(dir) as cluster:
        leader = cluster.leader()
        leader.client.create_journal("j")
        bare = [socket.create_connection(("127.0.0.1", port)) for port in (leader.client_port, leader.peer, leader.metrics)]
        for _ in range(5):
            bare.append(socket.create_connection(("127.0.0.1", leader.client_port)))
        idle = Client(leader.client_port)
        requests = queue.Queue()
        requests.put(idle.entries("j", ["idle"]))
        answered = threading.Event()
        appends = idle.stub("Ledger", "AppendStream")(iter(requests.get, None))
        threading.Thread(target=lambda: (next(appends), answered.set()), daemon=True).start()
        assert answered.wait(30)
        held = [
            hold(idle.stub("Ledger", "Tail"), idle.type("TailRequest")(journal="j", from_seq=1)),
            hold(idle.stub("Admin", "WatchEvents"), idle.type("WatchEventsRequest")()),
        ]
        load = Load(cluster, "j", clients=16)
        wait_for("load", lambda: load.acknowledged > 200)
        term = leader.group().term
        began = time.monotonic()
        leader.terminate()
        code = leader.wait_exit(30)
        took = time.monotonic() - began
        assert code == 0, code
        at = load.acknowledged
        wait_for("appends go on", lambda: load.acknowledged > at + 100)
        load.stop()
        gap = load.longest_gap(began - 0.5)
        next_leader = cluster.leader()
        assert next_leader is not leader and next_leader.group().term > term
        said = f"gap {gap * 1000:.0f} ms, exit after {took:.2f} s, errors {load.errors}"
        assert took < EXIT_MAX, said
        assert gap < GAP_MAX, said
        # A caller may lose its connection, and tries elsewhere; nothing that was proposed is left open.
        assert "OUTCOME_UNKNOWN" not in load.errors, said
        entries = cluster["c1"].client.read("j")
        assert len(entries) >= load.acknowledged
        del held, bare
        requests.put(None)
        idle.close()
        return said


if __name__ == "__main__":
    run(trial)
