"""grpc.health.v1 says what each service can do: three of five are killed, and the two that are left are no place for a ledger call.

Once they said SERVING for ever, and status named the dead leader and warned of nothing.
"""

import threading

import grpc
from google.protobuf.message_factory import GetMessageClass

from harness import Client, Cluster, run, wait_for

LEDGER, ADMIN, WHOLE = "tercet.v1.Ledger", "tercet.v1.Admin", ""
SERVING, NOT_SERVING = 1, 2


class Health:
    def __init__(self, client):
        service = client.pool.FindServiceByName("grpc.health.v1.Health")
        self.request = GetMessageClass(service.methods_by_name["Check"].input_type)
        answer = GetMessageClass(service.methods_by_name["Check"].output_type)
        how = {"request_serializer": self.request.SerializeToString, "response_deserializer": answer.FromString}
        self._check = client.channel.unary_unary("/grpc.health.v1.Health/Check", **how)
        self._watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch", **how)

    def check(self, service):
        try:
            return self._check(self.request(service=service), timeout=5).status
        except grpc.RpcError:
            return None

    def watch(self, service, into):
        def read():
            try:
                for answer in self._watch(self.request(service=service)):
                    into.append(answer.status)
            except grpc.RpcError:
                pass

        threading.Thread(target=read, daemon=True).start()


def trial(dir):
    with Cluster(dir) as cluster:
        leader = cluster.leader()
        leader.client.create_journal("j")
        left = [cluster["b2"], cluster["c1"]]
        health = {node.name: Health(Client(node.client_port)) for node in cluster}
        for node in cluster:
            for service in (LEDGER, ADMIN, WHOLE):
                wait_for(f"{node.name} serves {service!r}", lambda: health[node.name].check(service) == SERVING)
        seen = []
        health["b2"].watch(LEDGER, seen)
        wait_for("the watch begins", lambda: seen == [SERVING])
        dead = ["a1", "a2", "b1"]
        for name in dead:
            cluster[name].kill()
        for node in left:
            wait_for(f"{node.name} serves no ledger", lambda: health[node.name].check(LEDGER) == NOT_SERVING)
            wait_for(f"{node.name} as a whole", lambda: health[node.name].check(WHOLE) == NOT_SERVING)
            assert health[node.name].check(ADMIN) == SERVING
            status = wait_for(
                f"{node.name} warns",
                lambda: (s := node.status()) and any("no quorum since" in w for w in s.warnings) and s,
            )
            group = status.groups[0]
            assert group.without_quorum_ms >= 2000, group
            assert group.leader not in dead, group
        wait_for("the watch tells", lambda: seen[-1] == NOT_SERVING)
        cluster["a1"].start()
        for node in [*left, cluster["a1"]]:
            name = node.name
            wait_for(f"{name} serves again", lambda: Health(node.client).check(LEDGER) == SERVING)
        wait_for("the watch tells that it is back", lambda: seen[-1] == SERVING)
        assert cluster["b2"].client.append("j", ["back"])[0].seq == 1
        return f"the watch on b2 saw {seen}"


if __name__ == "__main__":
    run(trial)
