"""A client in another language, as a new user would write it: grpcio and server reflection, nothing of Tercet's.

usage: python_client.py HOST:PORT   (any node; use a follower)
Creates a journal, appends, repeats, reads, tails, and sends one bad request. Exits 0 when all is as documented.
"""

import sys
import threading
import time
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status


def main(endpoint: str) -> None:
    channel = grpc.insecure_channel(endpoint)
    grpc.channel_ready_future(channel).result(timeout=30)
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert {"tercet.v1.Ledger", "tercet.v1.Admin", "grpc.health.v1.Health"} <= set(services), services
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("tercet.v1.Ledger")

    def message(name):
        return GetMessageClass(pool.FindMessageTypeByName(f"tercet.v1.{name}"))

    def call(name, request, timeout=20):
        method = service.methods_by_name[name]
        response = GetMessageClass(method.output_type)
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        return kind(
            f"/tercet.v1.Ledger/{name}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response.FromString,
        )(request, timeout=timeout)

    journal = f"python-{uuid.uuid4().hex[:8]}"
    create = message("CreateJournalRequest")(name=journal, business_date="2026-01-05")
    create.currencies.add(code="CNY", digits=2)
    made = call("CreateJournal", create)
    assert made.head.seq == 0 and len(made.head.chain_hash) == 32, made

    def append_request(key, debit, credit):
        request = message("AppendRequest")(journal=journal)
        entry = request.entries.add(key=key, kind=1, business_date="2026-01-05", payload=b"from python")
        entry.postings.add(account="工商银行", side=1, amount=debit, currency="CNY")
        entry.postings.add(account="BANK-B", side=2, amount=credit, currency="CNY")
        return request

    seen, tailing = [], threading.Event()

    def tail():
        stream = call("Tail", message("TailRequest")(journal=journal, from_seq=1), timeout=60)
        tailing.set()
        for response in stream:
            seen.extend(entry.seq for entry in response.entries)
            if len(seen) >= 10:
                stream.cancel()
                return

    tailer = threading.Thread(target=tail, daemon=True)
    tailer.start()
    tailing.wait(20)
    for n in range(10):
        receipt = call("Append", append_request(f"k{n}", 100 + n, 100 + n)).receipts[0]
        assert receipt.seq == n + 1 and not receipt.replayed, receipt
    again = call("Append", append_request("k3", 103, 103)).receipts[0]
    assert again.seq == 4 and again.replayed, again

    read = [e for r in call("Read", message("ReadRequest")(journal=journal)) for e in r.entries]
    assert [e.seq for e in read] == list(range(1, 11)), read
    assert read[3].entry.key == "k3" and read[3].entry_hash == again.entry_hash
    tailer.join(30)
    assert seen == list(range(1, 11)), seen

    try:
        call("Append", append_request("bad", 5, 6))
        raise AssertionError("an unbalanced entry was taken")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        info = error_details_pb2.ErrorInfo()
        details = rpc_status.from_call(error).details
        assert any(detail.Unpack(info) for detail in details if detail.Is(info.DESCRIPTOR)), details
        assert info.reason == "UNBALANCED" and info.metadata["field"].startswith("entries[0].postings"), info
    print(f"python client: 10 entries appended, read and tailed through {endpoint}; 1 passed, 0 failed at {time.ctime()}")


if __name__ == "__main__":
    main(sys.argv[1])
