"""Every answer can be received by a client with default limits, and every page token belongs to its request.

Messages stay below 4 MiB, whatever was appended; refusals below 8 KiB of headers, whatever text they are about.
"""

import subprocess

from harness import TERCET, Client, Cluster, Refused, run, wait_for

LONG = "北京市商业银行股份有限公司清算中心" * 400
MAX_REQUEST = 4 << 20


def refusal(client, method, request, service="Ledger"):
    try:
        client.call(method, request, service=service)
    except Refused as refused:
        assert refused.reason, f"{method}: {refused} carries no ErrorInfo"
        size = len(refused.details.encode()) + sum(len(k) + len(v.encode()) for k, v in refused.metadata.items())
        assert size < 4096, f"{method}: {size} bytes"
        return refused
    raise AssertionError(f"{method} was taken")


def settled(client, request):
    """The receipts of an append, which is repeated until the outcome is known: on a busy machine 8,192 entries may take a while."""

    def append():
        try:
            return client.call("Append", request, timeout=60).receipts
        except Refused as refused:
            assert refused.reason in ("OUTCOME_UNKNOWN", "NO_LEADER", "OVERLOADED"), refused
            return None

    return wait_for("receipts", append)


def conflict(client, request):
    """The refusal of a request whose keys are taken, on the same terms."""

    def refused():
        found = refusal(client, "Append", request)
        return None if found.reason in ("OUTCOME_UNKNOWN", "NO_LEADER", "OVERLOADED") else found

    return wait_for("a definite refusal", refused)


def large_messages(client):
    """8,192 entries of nearly 4 MiB, as they are stored: with hashes and numbers 4.7 MB, in one proposal."""
    keys = [f"{n:08}" + "k" * 56 for n in range(8_192)]
    request = client.entries("large", keys, payload=b"x" * 375)
    assert 3_900_000 < request.ByteSize() <= MAX_REQUEST, request.ByteSize()
    # Receipts come in one answer, here and through a client that takes 4 MiB.
    receipts = settled(client, request)
    assert [r.seq for r in receipts] == list(range(1, 8_193))
    again = settled(client, request)
    assert all(r.replayed for r in again) and again[-1].chain_hash == receipts[-1].chain_hash
    answers = client.call("Read", client.type("ReadRequest")(journal="large"), timeout=60)
    sizes = [answer.ByteSize() for answer in answers]
    assert max(sizes) < 1.1 * (1 << 20) and len(sizes) > 3, sizes
    assert [e.seq for answer in answers for e in answer.entries] == list(range(1, 8_193))
    tail, seen = client.stub("Ledger", "Tail")(client.type("TailRequest")(journal="large", from_seq=1), timeout=60), 0
    for answer in tail:
        assert answer.ByteSize() < 1.1 * (1 << 20), answer.ByteSize()
        seen += len(answer.entries)
        if seen >= 8_192:
            tail.cancel()
            break
    # All conflict.
    refused = conflict(client, client.entries("large", keys, payload=b"y" * 375))
    assert (refused.reason, refused.metadata["conflict_count"]) == ("KEY_CONFLICT", "8192"), refused
    assert refused.metadata["conflicts"] == "0..8191=1..8192" and refused.metadata["key"] == keys[0], refused.metadata
    refused = conflict(client, client.entries("large", list(reversed(keys)), payload=b"y" * 375))
    assert refused.metadata["conflict_count"] == "8192" and refused.metadata["conflicts"].endswith(",..."), refused.metadata
    return max(sizes)


def refusals(client):
    make = client.type
    # As often as it takes to see a chance of two in five.
    for _ in range(8):
        assert refusal(client, "GetJournal", make("GetJournalRequest")(name=LONG)).reason == "JOURNAL_NOT_FOUND"
        assert refusal(client, "GetEntry", make("GetEntryRequest")(journal="large", key=LONG)).reason == "ENTRY_NOT_FOUND"
        assert refusal(client, "GetEntry", make("GetEntryRequest")(journal=LONG, key=LONG)).reason == "JOURNAL_NOT_FOUND"
        refused = refusal(client, "TransferLeader", make("TransferLeaderRequest")(to=LONG), service="Admin")
        assert refused.reason == "NODE_NOT_FOUND"
        refused = refusal(client, "ChangeMember", make("ChangeMemberRequest")(node=LONG, change=1), service="Admin")
        assert refused.reason == "NODE_NOT_FOUND"
        request = make("CreateJournalRequest")(name=LONG, business_date="2026-01-05")
        assert refusal(client, "CreateJournal", request).reason == "JOURNAL_NAME_INVALID"
        assert refusal(client, "Append", client.entries("large", [LONG])).reason == "KEY_INVALID"
        assert refusal(client, "Append", client.entries("large", ["k"], currency=LONG)).reason == "CURRENCY_INVALID"
    for hidden in ("AB\u202e21", "AB\u200b", "\u2066AB", "A\ufeffB", "A\u00adB"):
        request = client.entries("large", [f"hidden-{ord(hidden[2]):x}"])
        request.entries[0].postings[0].account = hidden
        refused = refusal(client, "Append", request)
        assert refused.reason == "ACCOUNT_INVALID" and not set(hidden) - set("AB21") & set(refused.details), refused


def pages(client):
    make = client.type
    for name in ("p1", "p2", "p3"):
        client.create_journal(name)
        client.append(name, ["k1"])
    journals, balances = make("ListJournalsRequest"), make("GetBalancesRequest")
    names, token = [], ""
    for size in (1, 2, 1_000):
        page = client.call("ListJournals", journals(page_size=size, page_token=token))
        names, token = names + [j.name for j in page.journals], page.next_page_token
    assert names == ["large", "p1", "p2", "p3"] and not token, names
    listing = client.call("ListJournals", journals(page_size=1)).next_page_token
    first = client.call("GetBalances", balances(journal="p1", page_size=1))
    rest = client.call("GetBalances", balances(journal="p1", page_size=5, page_token=first.next_page_token))
    assert [b.account for b in [*first.balances, *rest.balances]] == ["BANK-B", "工商银行"]
    foreign = first.next_page_token
    for request in (
        *(journals(page_token=token) for token in ("zzz", "A" * 5_000, foreign, listing[:-1] + "~", listing.upper())),
        journals(page_token=listing, consistency=1),
    ):
        refused = refusal(client, "ListJournals", request)
        assert (refused.reason, refused.metadata["field"]) == ("PAGE_TOKEN_INVALID", "page_token"), refused
    for request in (
        balances(journal="p2", page_token=foreign),
        balances(journal="p1", account="BANK-B", page_token=foreign),
        balances(journal="p1", page_token=listing),
        balances(journal="p1", page_token="zzz"),
    ):
        assert refusal(client, "GetBalances", request).reason == "PAGE_TOKEN_INVALID", request


def operators(cluster):
    """What only a leader can do is done through any node."""
    leader = cluster.leader()
    asked = cluster.followers()[-1]
    change = asked.client.type("ChangeMemberRequest")
    # A voter is promoted: nothing changes, and the leader says who votes. One that answers is not replaced.
    members = asked.client.call("ChangeMember", change(node=leader.name, change=2), service="Admin")
    assert sorted(members.voters) == sorted(cluster.nodes), members
    refused = refusal(asked.client, "ChangeMember", change(node="b1", change=4), service="Admin")
    assert refused.reason == "MEMBER_REFUSED", refused
    command = [str(TERCET), "member", "promote", "b1", "--endpoint", f"http://127.0.0.1:{asked.client_port}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0 and "voters" in said.stdout, said
    target = next(node for node in cluster.followers() if node is not asked and node.zone == leader.zone)
    asked.client.call("TransferLeader", asked.client.type("TransferLeaderRequest")(to=target.name), service="Admin")
    assert cluster.leader() is target


def trial(dir):
    with Cluster(dir) as cluster:
        # No options: what grpcio takes by default.
        client = Client(cluster.followers()[0].client_port)
        client.create_journal("large")
        largest = large_messages(client)
        refusals(client)
        pages(client)
        operators(cluster)
        return f"the largest message of a read was {largest:,} bytes"


if __name__ == "__main__":
    run(trial)
