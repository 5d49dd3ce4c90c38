"""Four of five nodes are killed: what is never sent is refused for certain and quickly, and nobody names the dead leader for long."""

import time

from harness import Client, Cluster, Refused, run, wait_for


def refused(call):
    began = time.monotonic()
    try:
        call()
    except Refused as refusal:
        return refusal, time.monotonic() - began
    raise AssertionError("it was taken without a quorum")


def trial(dir):
    with Cluster(dir) as cluster:
        last = cluster["c1"]
        last.client.create_journal("j")
        last.client.append("j", ["before"])
        leader = cluster.leader()
        assert leader is not last
        for node in cluster:
            if node is not last:
                node.kill()
        died = time.monotonic()
        client = Client(last.client_port)
        wait_for("the dead leader is named no more", lambda: last.group().leader_id == 0)
        assert not last.group().leader, last.group()
        forgotten = time.monotonic() - died
        # Silent for longer than any election takes.
        wait_for("a quick refusal", lambda: refused(lambda: client.append("j", ["waits"]))[1] < 1.0 or None)
        slowest = 0.0
        calls = {
            "Append": lambda n: client.append("j", [f"never-{n}"]),
            "GetJournal": lambda n: client.call("GetJournal", client.type("GetJournalRequest")(name="j")),
            "CreateJournal": lambda n: client.create_journal(f"never-{n}"),
            "TransferLeader": lambda n: client.call("TransferLeader", client.type("TransferLeaderRequest")(to="c1"), service="Admin"),
        }
        for n in range(5):
            for what, call in calls.items():
                refusal, took = refused(lambda: call(n))
                assert refusal.reason == "NO_LEADER", f"{what}: {refusal}"
                slowest = max(slowest, took)
        assert slowest < 1.5, f"a refusal took {slowest:.2f} s"
        # Definite means that nothing of it comes later.
        for node in cluster:
            if node is not last:
                node.start()
        cluster.whole()
        assert client.append("j", ["never-0"])[0].replayed is False
        keys = [entry.entry.key for entry in client.read("j")]
        assert keys.count("before") == 1 and not {f"never-{n}" for n in range(1, 5)} & set(keys), keys
        return f"named for {forgotten:.1f} s after its death; refusals took at most {slowest * 1000:.0f} ms"


if __name__ == "__main__":
    run(trial)
