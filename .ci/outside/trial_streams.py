"""What cannot be decoded is a named refusal, and a stream of appends never ends with answers owed.

An account in GBK and a message of 17 MiB are sent as the 51st of a stream and as a call of their own, and whatever else a client in
another language may get wrong: a cut message, a compressed one, none at all, a method that does not exist.
"""


import grpc
from harness import Client, Cluster, Refused, run

GBK = "工商银行".encode("gbk")
COUNT = 50


def in_gbk(request):
    """The request's bytes with its first account in GBK."""
    raw = request.SerializeToString()
    utf8 = "工商银行".encode()
    at = raw.index(utf8)
    # As long as before, so that no length changes.
    return raw[:at] + (GBK + b"\xb9\xa4\xb9\xa4")[: len(utf8)] + raw[at + len(utf8) :]


def streamed(client, requests):
    """The answers to a stream of requests, and what it ended with (None: OK)."""
    call = client.stub("Ledger", "AppendStream")(iter(requests), timeout=60)
    answers = []
    try:
        for answer in call:
            answers.append(answer)
    except grpc.RpcError as error:
        return answers, Refused(error)
    return answers, None


def broken_streams(client):
    for number, (what, broken, reason) in enumerate(
        [
            ("GBK", in_gbk(client.entries("j", ["bad"])), "REQUEST_MALFORMED"),
            ("17 MiB", b"\0" * (17 << 20), "REQUEST_TOO_LARGE"),
            ("no protobuf", b"\xff" * 10, "REQUEST_MALFORMED"),
        ]
    ):
        keys = [f"s{number}-{n}" for n in range(COUNT)]
        requests = [client.entries("j", [key]) for key in keys]
        before = client.append("j", [f"before-{number}"])[0].seq
        answers, end = streamed(client, [*requests, broken, client.entries("j", [f"behind-{number}"])])
        assert len(answers) == COUNT + 1, f"{what}: {len(answers)} answers, and then {end}"
        receipts = [answer.appended.receipts[0] for answer in answers[:COUNT]]
        assert [r.key for r in receipts] == keys, what
        assert sorted(r.seq for r in receipts) == list(range(before + 1, before + COUNT + 1)), what
        refused = answers[COUNT].refused
        assert (refused.reason, refused.code) == (reason, 3), f"{what}: {refused}"
        assert end and (end.reason, end.code) == (reason, grpc.StatusCode.INVALID_ARGUMENT), f"{what}: {end}"
        if what == "GBK":
            assert refused.metadata["field"] == "entries.postings.account", refused
        # Neither the broken one nor what came behind it was appended.
        head = client.append("j", [f"after-{number}"])[0]
        assert (head.seq, head.replayed) == (before + COUNT + 1, False), f"{what}: {head}"
        assert not client.append("j", [f"behind-{number}"])[0].replayed, what
    # An end without a fault is a good end, and an ordinary refusal stops nothing.
    answers, end = streamed(client, [client.entries("j", ["g1"]), client.entries("nowhere", ["g2"]), client.entries("j", ["g3"])])
    said = [a.WhichOneof("result") for a in answers]
    assert (said, end) == (["appended", "refused", "appended"], None), (said, end)


def broken_calls(client):
    def refusal(method, request, **how):
        try:
            client.call(method, request, **how)
        except Refused as refused:
            return refused.code.name, refused.reason
        raise AssertionError(f"{method} was taken")

    invalid = "INVALID_ARGUMENT"
    assert refusal("Append", in_gbk(client.entries("j", ["x"]))) == (invalid, "REQUEST_MALFORMED")
    assert refusal("Append", b"\0" * (17 << 20)) == (invalid, "REQUEST_TOO_LARGE")
    assert refusal("Append", client.entries("j", ["x"], payload=b"x" * (64 << 10)).SerializeToString() * 70) == (
        invalid,
        "REQUEST_TOO_LARGE",
    )
    assert refusal("Read", b"\xff") == (invalid, "REQUEST_MALFORMED")
    assert refusal("GetStatus", b"\xff", service="Admin") == (invalid, "REQUEST_MALFORMED")

    def bare(path, request, **how):
        call = client.channel.unary_unary(path, request_serializer=lambda m: m, response_deserializer=lambda m: m)
        try:
            call(request, timeout=20, **how)
        except grpc.RpcError as error:
            refused = Refused(error)
            return refused.code.name, refused.reason
        raise AssertionError(f"{path} was taken")

    for path in ("/tercet.v1.Ledger/Nothing", "/tercet.v2.Ledger/Append", "/nothing"):
        assert bare(path, b"") == ("UNIMPLEMENTED", "METHOD_UNKNOWN"), path
    packed = client.entries("j", ["x"], payload=b"x" * 1_000).SerializeToString()
    assert bare("/tercet.v1.Ledger/Append", packed, compression=grpc.Compression.Gzip) == ("UNIMPLEMENTED", "ENCODING_UNSUPPORTED")
    # No message at all.
    call = client.channel.stream_unary(
        "/tercet.v1.Ledger/Append", request_serializer=lambda m: m, response_deserializer=lambda m: m
    )
    try:
        call(iter([]), timeout=20)
        raise AssertionError("no message was taken")
    except grpc.RpcError as error:
        assert Refused(error).reason == "REQUEST_MALFORMED", Refused(error)


def stopping_node(cluster):
    """A node that is stopped under a stream answers what it has read, and then says why the stream ends."""
    follower = cluster.followers()[0]
    client = Client(follower.client_port)
    begun, over = [], False

    def requests():
        n = 0
        while not over:
            n += 1
            begun.append(n)
            yield client.entries("j", [f"stop-{n}"])

    answers = []
    call = client.stub("Ledger", "AppendStream")(requests(), timeout=60)
    try:
        for answer in call:
            answers.append(answer)
            if len(answers) == 20:
                follower.terminate()
        ended = None
    except grpc.RpcError as error:
        ended = Refused(error)
    over = True
    assert ended and ended.reason in ("SHUTTING_DOWN", ""), f"{ended} after {len(answers)} answers"
    follower.wait_exit()
    receipts = [a.appended.receipts[0].key for a in answers if a.WhichOneof("result") == "appended"]
    assert receipts == [f"stop-{n}" for n in range(1, len(receipts) + 1)], receipts
    other = next(node for node in cluster if node.is_running())
    if ended.reason == "SHUTTING_DOWN" and len(receipts) == len(answers):
        # Definite: the first request without an answer was not looked at.
        assert not other.client.append("j", [f"stop-{len(answers) + 1}"])[0].replayed
    return ended.reason or ended.code.name


def trial(dir):
    with Cluster(dir) as cluster:
        node = cluster.followers()[0]
        node.client.create_journal("j")
        for at in (cluster.leader(), node):
            broken_calls(at.client)
        broken_streams(node.client)
        # Every entry is there once, through whatever it came.
        keys = [entry.entry.key for entry in node.client.read("j")]
        assert len(keys) == len(set(keys)) and "bad" not in keys, keys
        return f"a stopped node's stream ended with {stopping_node(cluster)}"


if __name__ == "__main__":
    run(trial)
