"""The harness' own trial: a journal is made, written through a follower, survives the leader's kill -9, and is read everywhere."""

from harness import Cluster, Refused, run, wait_for


def trial(dir):
    with Cluster(dir) as cluster:
        follower = cluster.followers()[0]
        follower.client.create_journal("j")
        assert [r.seq for r in follower.client.append("j", ["k1", "k2"])] == [1, 2]
        leader = cluster.leader()
        leader.kill()

        def again():
            try:
                return follower.client.append("j", ["k2", "k3"])
            except Refused as refused:
                assert refused.reason, refused
                return None

        assert [(r.seq, r.replayed) for r in wait_for("a new leader", again)] == [(2, True), (3, False)]
        leader.start()
        cluster.whole()
        for node in cluster:
            assert [e.entry.key for e in node.client.read("j")] == ["k1", "k2", "k3"], node.name


if __name__ == "__main__":
    run(trial)
