"""A data directory that lost a part, was put back to an earlier state, or was copied: the node says so and stays silent.

Was: with `log/` gone and NODE kept a node took part again and voted without what it had acknowledged; one whose directory was put back
stayed behind for ever while its leader believed it had everything; a copy that ran twice voted twice in a term.
"""

import shutil
import subprocess

from harness import TERCET, Cluster, Node, Refused, run, wait_for

DIRECTORY, STOPPED = 78, 70


def member(cluster, leader, *arguments):
    endpoint = f"http://127.0.0.1:{leader.client_port}"
    done = subprocess.run(
        [str(TERCET), "member", *arguments, "--endpoint", endpoint], capture_output=True, text=True, timeout=60
    )
    return done.returncode == 0, done.stdout + done.stderr


def fresh_words(node, before):
    return node.said()[before:]


def restart_refused(node, code):
    """Starts a node that must end by itself; gives what it says."""
    before = len(node.said())
    node.start()
    ended = node.wait_exit()
    assert ended == code, f"exit code {ended}: {fresh_words(node, before)}"
    return fresh_words(node, before)


def lost_parts(cluster):
    """`log/` is missing, then another node's."""
    b1, c1 = cluster["b1"], cluster["c1"]
    b1.kill()
    kept = b1.dir.with_name("b1-log")
    (b1.dir / "log").rename(kept)
    words = restart_refused(b1, DIRECTORY)
    assert "log is missing" in words and "member replace b1" in words, words
    c1.kill()
    shutil.copytree(c1.dir / "log", b1.dir / "log")
    words = restart_refused(b1, DIRECTORY)
    assert "another one" in words, words
    shutil.rmtree(b1.dir / "log")
    kept.rename(b1.dir / "log")
    for node in (b1, c1):
        node.start()
    cluster.whole()


def copied(cluster):
    """A copy of b1's directory runs under other addresses while b1 works."""
    b1 = cluster["b1"]
    b1.kill()
    copy = b1.dir.with_name("b1-copy")
    shutil.copytree(b1.dir, copy)
    b1.start()
    cluster.whole()
    ports = [b1.peer, b1.client_port, b1.metrics]
    twin = Node(cluster, "b1", 3, "b")
    twin.dir, twin.log = copy, cluster.dir / "twin.log"
    twin.topology = cluster.dir / "twin.toml"
    text = cluster.toml("b1")
    for old, new in zip(ports, [twin.peer, twin.client_port, twin.metrics]):
        text = text.replace(f"127.0.0.1:{old}\"", f"127.0.0.1:{new}\"")
    twin.topology.write_text(text)
    try:
        # NODE of the copy counts the same start as b1 does now; a later copy counts a later one.
        for rounds in range(2):
            twin.start()
            assert twin.wait_exit() == STOPPED, twin.said()
            assert "copy" in twin.said() and "member replace b1" in twin.said(), twin.said()
        assert b1.is_running(), b1.said()[-400:]
        cluster.leader().client.append("j", [f"copied-{n}" for n in range(5)])
    finally:
        if twin.is_running():
            twin.kill()


def put_back(cluster):
    """b1's directory is put back to what it was before its last start."""
    b1 = cluster["b1"]
    b1.kill()
    older = b1.dir.with_name("b1-older")
    shutil.copytree(b1.dir, older)
    b1.start()
    cluster.whole()
    leader = cluster.leader()
    keys = [f"later-{n}" for n in range(20)]
    for key in keys:
        leader.client.append("j", [key])
    end = leader.group().last_index
    wait_for("b1 has all of it", lambda: (g := b1.group()) and g.flushed_index >= end)
    b1.kill()
    shutil.rmtree(b1.dir)
    older.rename(b1.dir)
    words = restart_refused(b1, STOPPED)
    assert "earlier state" in words and "member replace b1" in words, words
    # As the message says.
    shutil.rmtree(b1.dir)
    leader = cluster.leader()
    wait_for("b1 is taken for lost", lambda: member(cluster, cluster.leader(), "replace", "b1")[0])
    b1.start()
    wait_for("b1 votes again", lambda: member(cluster, cluster.leader(), "promote", "b1")[0])
    # Now it counts: with two others away the three that are left acknowledge.
    away = [n for n in cluster if n.name in ("b2", "c1")]
    for node in away:
        node.kill()
    wait_for("three of five acknowledge", lambda: appended(cluster, "three"))
    for node in away:
        node.start()
    cluster.whole()


def appended(cluster, key):
    try:
        return cluster.leader().client.append("j", [key])
    except Refused:
        return None


def trial(dir):
    with Cluster(dir) as cluster:
        client = cluster.leader().client
        client.create_journal("j")
        for n in range(5):
            client.append("j", [f"first-{n}"])
        lost_parts(cluster)
        copied(cluster)
        put_back(cluster)
        entries = cluster.leader().client.read("j")
        assert len(entries) == 5 + 5 + 20 + 1, len(entries)


if __name__ == "__main__":
    run(trial)
