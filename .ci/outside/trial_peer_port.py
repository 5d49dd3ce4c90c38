"""The peer port towards callers that are no nodes of the cluster: what repair and snapshots give, take and hold.

FetchRecords answers 64 wanted entries at most, and only to a node of the cluster, from the directory that the cluster knows: it shows
entries that are not placed yet. InstallSnapshot looks at who sends it, and what it says of itself, before it gathers anything.
"""

import re

from harness import ROOT, Client, Cluster, Refused, run

VERSION = int(re.search(r"PROTOCOL_VERSION: u32 = (\d+)", (ROOT / "node/src/identity.rs").read_text()).group(1))
MIB = 1 << 20


def refused(call, *reasons):
    try:
        call()
    except Refused as refusal:
        assert refusal.reason in reasons, refusal
        return refusal
    raise AssertionError(f"it was answered, not refused as {reasons}")


def trial(dir):
    with Cluster(dir) as cluster:
        leader = cluster.leader()
        leader.client.create_journal("j")
        leader.client.append("j", ["one"])
        asker = cluster["a1"] if leader.name != "a1" else cluster["b1"]
        known, peer = asker.status(), Client(leader.peer)

        def header(**other):
            right = dict(protocol_version=VERSION, cluster_id=known.cluster_id.encode(), cluster_name="outside")
            right |= dict(from_node=known.node_id, to_node=leader.id, incarnation=known.incarnation, group=0)
            return peer.type("Header")(**(right | other))

        def fetch(count, **other):
            request = peer.type("FetchRecordsRequest")(header=header(**other))
            for index in range(1, count + 1):
                request.wanted.add(index=index)
            return peer.call("FetchRecords", request, service="Peer")

        assert len(fetch(64).records) == 64
        refused(lambda: fetch(65), "REQUEST_MALFORMED")
        refused(lambda: fetch(100_000), "REQUEST_MALFORMED")
        refused(lambda: fetch(1, from_node=99), "WRONG_CLUSTER")
        refused(lambda: fetch(1, incarnation=known.incarnation + 1), "WRONG_CLUSTER")

        taken = []

        def chunks(first):
            yield first
            for _ in range(1_000):
                taken.append(1)
                yield peer.type("PeerSnapshotChunk")(data=bytes(MIB))

        before = leader.rss_bytes()
        chunk = peer.type("PeerSnapshotChunk")
        for first in (chunk(data=b"x"), chunk(header=header(cluster_name="another")), chunk(header=header(), meta=b"none")):
            taken.clear()
            refused(lambda: peer.call("InstallSnapshot", chunks(first), service="Peer"), "WRONG_CLUSTER", "INTERNAL")
            assert len(taken) < 100, f"{len(taken)} MiB were sent before the header was looked at"
        assert leader.rss_bytes() - before < 64 * MIB
        assert leader.is_running() and leader.client.append("j", ["two"])[0].seq == 2
        return "64 entries at most, strangers get nothing, a snapshot's header first"


if __name__ == "__main__":
    run(trial)
