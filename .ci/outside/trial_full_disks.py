"""All disks full at once: appends are refused, everything else goes on: reads, elections, restarts.

Each node's directory is a small file system of its own, in a namespace of the trial's own; where none can be made it is skipped.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from harness import Cluster, Refused, run, wait_for

INSIDE = "TERCET_TRIAL_INSIDE"
# Two segments, the ballast, and what has to be free for that. The harness writes `[storage]` itself for a portable disk.
DISK_MIB, TAIL = (320, "") if os.environ.get("TERCET_DISK") == "portable" else (160, "[storage]\nsegment_mib = 16")


def mount(at):
    at.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", str(at).encode(), b"tmpfs", 0, f"size={DISK_MIB}m".encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {at}")


def fill(disk):
    """Takes the last byte."""
    with (disk / "filling").open("wb", buffering=0) as filling:
        for size in (1 << 20, 4096):
            try:
                while filling.write(b"\x5a" * size) == size:
                    pass
            except OSError:
                continue
    free = os.statvfs(disk)
    assert free.f_bavail * free.f_frsize < 4096, free


def refusal(call):
    try:
        call()
        return None
    except Refused as refused:
        return refused.reason


def trial(dir):
    cluster = Cluster(dir, tail=TAIL, start=False)
    disks = {node.name: Path(dir) / f"disk-{node.name}" for node in cluster}
    for node in cluster:
        mount(disks[node.name])
        node.dir = disks[node.name] / "data"
    with cluster:
        cluster.start()
        follower = cluster.followers()[0]
        follower.client.create_journal("j")
        follower.client.append("j", [f"k{n}" for n in range(50)])
        for node in cluster:
            wait_for(f"{node.name} has its ballast", lambda node=node: (node.dir / "BALLAST").exists())

        for disk in disks.values():
            fill(disk)
        wait_for(
            "appends are refused for want of room",
            lambda: refusal(lambda: cluster.leader().client.append("j", ["full"])) == "DISK_FULL",
        )

        # A new leader's first entry finds room on full disks, so that reads go on.
        old = cluster.leader()
        old.kill()
        rest = [node for node in cluster if node is not old]
        for node in rest:
            wait_for(f"{node.name} reads", lambda node=node: refusal(lambda: node.client.read("j")) is None)
            assert len(node.client.read("j")) == 50
            assert refusal(lambda node=node: node.client.append("j", ["full"])) == "DISK_FULL"

        # Every node starts without a byte free, one after the other, and once more.
        for node in [old, *rest] * 2:
            node.kill()
            node.start()
            wait_for(f"{node.name} serves", lambda node=node: node.status() is not None or not node.is_running())
            assert node.is_running(), f"{node.name}, exit code {node.process.returncode}: {node.said()[-2000:]}"
            wait_for(f"{node.name} reads", lambda node=node: refusal(lambda: node.client.read("j")) is None)
        assert refusal(lambda: cluster.leader().client.append("j", ["full"])) == "DISK_FULL"

        for disk in disks.values():
            (disk / "filling").unlink()
        wait_for("appends are taken again", lambda: refusal(lambda: cluster.leader().client.append("j", ["room"])) is None)
        for node in cluster:
            keys = [entry.entry.key for entry in node.client.read("j")]
            assert keys == [f"k{n}" for n in range(50)] + ["room"], keys


if __name__ == "__main__":
    if INSIDE in os.environ:
        run(trial)
    elif subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0:
        print("SKIPPED trial_full_disks: no namespace for small file systems here")
    else:
        # Nodes are started while calls are under way: a forked child must not wake gRPC's threads before it is a node.
        os.environ[INSIDE], os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "1", "0"
        os.execvp("unshare", ["unshare", "-Urm", sys.executable, *sys.argv])
