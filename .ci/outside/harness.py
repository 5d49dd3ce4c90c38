"""Five real nodes, seen from outside: processes, sockets, and a gRPC client that is not ours.

A trial is a file `trial_*.py` with a function `trial(dir)` that builds a `Cluster`, does something to it and asserts what a
user would see. It runs by itself: `python trial_x.py`; exit code 0 means that all was as documented.

Invariants: nothing of Tercet's own code is used but the `tercet` binary (TERCET_BIN, default target/release/tercet); every
address is on loopback and chosen free; everything that was started is ended by its own pid, whatever happens; nothing sleeps to
synchronise, everything waits for a condition with a deadline.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from pathlib import Path

# Nodes are started while channels are open: gRPC's handlers around fork would end some of the children.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc  # noqa: E402
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

ROOT = Path(__file__).resolve().parents[2]
TERCET = Path(os.environ.get("TERCET_BIN", ROOT / "target/release/tercet"))
# How long a condition may take on a busy machine.
PATIENCE = 60.0
# Name, id, zone of the default topology, 2-2-1.
NODES = [("a1", 1, "a"), ("a2", 2, "a"), ("b1", 3, "b"), ("b2", 4, "b"), ("c1", 5, "c")]
SITES = {"a": "east", "b": "east", "c": "west"}


def wait_for(what, condition, patience=PATIENCE, pause=0.05):
    """Waits until `condition()` is neither None nor False, and returns it."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value is not None and value is not False:
            return value
        assert time.monotonic() < deadline, f"in {patience:.0f} s it did not come to this: {what}"
        time.sleep(pause)


_taken = set()


def free_port():
    """A port on loopback, below the system's own choices, that nobody else of this run has."""
    while True:
        port = random.randrange(20_000, 32_000)
        if port in _taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        return port


class Line:
    """A line to one address, carried by threads: delay and rate for each direction, and cuts that swallow bytes.

    `rate` is in bytes per second (None: no limit), `delay` in seconds one way. `sent` counts bytes by direction ("to", "from").
    """

    CHUNK = 4096

    def __init__(self, target, rate=None, delay=0.0):
        self.target, self.rate, self.delay = target, rate, delay
        self.cut = {"to": False, "from": False}
        self.sent = {"to": 0, "from": 0}
        self.connections = 0
        self._pace = {"to": threading.Lock(), "from": threading.Lock()}
        self._next = {"to": 0.0, "from": 0.0}
        self._sockets = set()
        self._closed = False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self._closed:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                with contextlib.suppress(Exception):
                    near.close()
                if self._closed:
                    return
                continue
            far.settimeout(None)
            self.connections += 1
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A thin line holds little: what a sender has got rid of should be on its way.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            self._sockets |= {near, far}
            self._carry(near, far, "to")
            self._carry(far, near, "from")

    def _carry(self, source, sink, way):
        held, changed = [], threading.Condition()

        def read():
            while True:
                try:
                    data = source.recv(self.CHUNK)
                except OSError:
                    data = b""
                with changed:
                    # What the line holds is bounded, as on a wire.
                    while len(held) > 64:
                        changed.wait()
                    held.append((self._due(way, len(data)) + self.delay, data))
                    changed.notify_all()
                if not data:
                    return

        def write():
            while True:
                with changed:
                    while not held:
                        changed.wait()
                    due, data = held.pop(0)
                    changed.notify_all()
                time.sleep(max(0.0, due - time.monotonic()))
                while self.cut[way] and not self._closed:
                    time.sleep(0.01)
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                    self.sent[way] += len(data)
                except OSError:
                    with contextlib.suppress(OSError):
                        source.close()
                    return

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()

    def _due(self, way, count):
        """When the last of `count` bytes leaves; the reader waits for it, so that a full line pushes back."""
        if self.rate is None:
            return time.monotonic()
        with self._pace[way]:
            self._next[way] = max(self._next[way], time.monotonic()) + count / self.rate
            due = self._next[way]
        time.sleep(max(0.0, due - time.monotonic()))
        return due

    def close(self):
        self._closed = True
        for end in [self.listener, *self._sockets]:
            with contextlib.suppress(OSError):
                end.close()


class Refused(Exception):
    """A call that ended with a status; `reason` and `metadata` are those of google.rpc.ErrorInfo, empty if there is none."""

    def __init__(self, error):
        self.code, self.details = error.code(), error.details()
        self.reason, self.metadata = "", {}
        with contextlib.suppress(Exception):
            for detail in rpc_status.from_call(error).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
                    self.reason, self.metadata = info.reason, dict(info.metadata)
        super().__init__(f"{self.code.name} {self.reason}: {self.details}")


class Client:
    """A client of one node, by server reflection."""

    # The services of all nodes are the same: each name is asked for once. The pool is filled under a lock, for it takes no second file of a
    # name, which two threads that ask at once would bring.
    _pool, _lock = None, threading.RLock()
    _types, _methods = {}, {}

    def __init__(self, port, options=()):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=list(options))

    def close(self):
        self.channel.close()

    @property
    def pool(self):
        with Client._lock:
            if Client._pool is None:
                Client._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
            return Client._pool

    def _known(self, names, name, look_up):
        if name not in names:
            with Client._lock:
                names[name] = look_up(self.pool)
        return names[name]

    def type(self, name):
        """The class of a message of tercet.v1."""
        look_up = lambda pool: GetMessageClass(pool.FindMessageTypeByName(f"tercet.v1.{name}"))
        return self._known(Client._types, name, look_up)

    def stub(self, service, method):
        """A callable of gRPC; requests may be messages, or bytes that go out as they are."""

        def look_up(pool):
            found = pool.FindServiceByName(f"tercet.v1.{service}").methods_by_name[method]
            return found.client_streaming, found.server_streaming, GetMessageClass(found.output_type)

        streams_in, streams_out, answer = self._known(Client._methods, (service, method), look_up)
        kinds = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }
        return kinds[streams_in, streams_out](
            f"/tercet.v1.{service}/{method}",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def call(self, method, request, timeout=20.0, service="Ledger"):
        """The answer of a unary call, or the list of all answers; raises `Refused`."""
        try:
            answer = self.stub(service, method)(request, timeout=timeout)
            return answer if hasattr(answer, "DESCRIPTOR") else list(answer)
        except grpc.RpcError as error:
            raise Refused(error) from None

    def status(self, timeout=5.0):
        return self.call("GetStatus", self.type("GetStatusRequest")(), timeout, service="Admin")

    def create_journal(self, name, durability_class=0, currency="CNY", timeout=20.0):
        request = self.type("CreateJournalRequest")(name=name, business_date="2026-01-05", default_class=durability_class)
        request.currencies.add(code=currency, digits=2)
        return self.call("CreateJournal", request, timeout)

    def entries(self, journal, keys, amount=100, payload=b"", durability_class=0, currency="CNY"):
        """An append request with one payment a key."""
        request = self.type("AppendRequest")(journal=journal, durability_class=durability_class)
        for key in keys:
            entry = request.entries.add(key=key, kind=1, business_date="2026-01-05", payload=payload)
            entry.postings.add(account="工商银行", side=1, amount=amount, currency=currency)
            entry.postings.add(account="BANK-B", side=2, amount=amount, currency=currency)
        return request

    def append(self, journal, keys, timeout=20.0, **how):
        return list(self.call("Append", self.entries(journal, keys, **how), timeout).receipts)

    def read(self, journal, timeout=60.0, **how):
        """All entries of a journal."""
        answers = self.call("Read", self.type("ReadRequest")(journal=journal, **how), timeout)
        return [entry for answer in answers for entry in answer.entries]


class Node:
    """One `tercet serve`."""

    def __init__(self, cluster, name, number, zone):
        self.cluster, self.name, self.id, self.zone = cluster, name, number, zone
        self.peer, self.client_port, self.metrics = free_port(), free_port(), free_port()
        self.dir = cluster.dir / name
        self.topology = cluster.dir / f"{name}.toml"
        self.log = cluster.dir / f"{name}.log"
        self.process = None
        self._client = None

    @property
    def client(self):
        if self._client is None:
            self._client = Client(self.client_port)
        return self._client

    def start(self, nofile=None, env=None, stdout=None, stderr=None, data_dir=None, topology=None):
        """Starts it; `nofile` limits its descriptors, soft and hard. Output goes to NAME.log unless told otherwise."""
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"

        def limit():
            if nofile is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))

        command = [str(TERCET), "serve", "--topology", str(topology or self.topology), "--node", self.name]
        command += ["--data-dir", str(data_dir or self.dir)]
        log = self.log.open("ab")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log if stdout is None else stdout,
            stderr=log if stderr is None else stderr,
            # Only where it must be: gRPC has threads, and a child of a fork may die of them.
            preexec_fn=None if nofile is None else limit,
            env={**os.environ, **(env or {})},
        )
        log.close()
        return self

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def wait_exit(self, patience=PATIENCE):
        """Its exit code."""
        wait_for(f"{self.name} has ended", lambda: not self.is_running(), patience, pause=0.01)
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def status(self):
        """NodeStatus, or None if it does not answer."""
        try:
            return self.client.status(timeout=2.0)
        except (Refused, grpc.RpcError):  # the latter from reflection, before the node listens
            return None

    def group(self, number=0):
        status = self.status()
        return next((g for g in status.groups if g.group == number), None) if status else None

    def rss_bytes(self):
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cluster:
    """The default topology on loopback; `head` and `tail` are TOML around it, `groups` the number of Raft groups.

    `lines` names pairs like ("a1", "c1"): what a1 dials of c1's peer address goes through `cluster.line["a1", "c1"]`.
    """

    def __init__(self, dir, groups=1, tail="", lines=(), rtt_ms=None, start=True):
        self.dir, self.groups, self.tail = Path(dir), groups, tail
        self.rtt_ms = rtt_ms or {"a-b": 1.0, "a-c": 30.0, "b-c": 30.0}
        self.nodes = {name: Node(self, name, number, zone) for name, number, zone in NODES}
        self.line = {(a, b): Line(self.nodes[b].peer) for a, b in lines}
        for node in self.nodes.values():
            node.topology.write_text(self.toml(node.name))
        self.extra = []
        if start:
            try:
                self.start()
            except BaseException:
                self.stop()
                raise

    def __getitem__(self, name):
        return self.nodes[name]

    def __iter__(self):
        return iter(self.nodes.values())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def toml(self, seen_by, groups=None, sites=None, rtt_ms=None):
        """The topology as one node's file has it."""
        sites = sites or SITES
        rtt = ", ".join(f'"{pair}" = {ms}' for pair, ms in (rtt_ms or self.rtt_ms).items())
        out = [f'[cluster]\nname = "outside"\ngroups = {groups or self.groups}', f"[timing]\nrtt_ms = {{ {rtt} }}"]
        out.append('[storage]\ndisk = "portable"' if os.environ.get("TERCET_DISK") == "portable" else "")
        out += [f'[[sites]]\nname = "{site}"' for site in dict.fromkeys(sites.values())]
        for rank, (zone, site) in enumerate(sites.items(), 1):
            out.append(f'[[zones]]\nname = "{zone}"\nsite = "{site}"\nleader_preference = {rank}')
        for node in self.nodes.values():
            line = self.line.get((seen_by, node.name))
            peer = line.port if line else node.peer
            out.append(
                f'[[nodes]]\nid = {node.id}\nname = "{node.name}"\nzone = "{node.zone}"\npeer = "127.0.0.1:{peer}"\n'
                f'client = "127.0.0.1:{node.client_port}"\nmetrics = "127.0.0.1:{node.metrics}"\nrole = "voter"'
            )
        return "\n\n".join([*out, self.tail]) + "\n"

    def start(self, **how):
        for node in self:
            node.start(**how)
        self.whole()

    def whole(self, names=None):
        """Waits until these nodes (all) run and say nothing to worry about, and one leads each group from its preferred place."""
        for node in self:
            if names is None or node.name in names:
                wait_for(
                    f"{node.name} takes part (exit code {node.process.poll()}): {node.said()[-400:]}",
                    lambda: (s := node.status()) and not s.warnings and all(g.leader_id for g in s.groups),
                )
        return self

    def leader(self, group=0):
        """Waits for the leader of a group; of several nodes that believe it, the one of the highest term."""

        def find():
            seen = [(g.term, n) for n in self if n.is_running() and (g := n.group(group)) and g.role == "leader"]
            return max(seen, key=lambda found: found[0])[1] if seen else None

        return wait_for("a leader", find)

    def followers(self, group=0):
        leader = self.leader(group)
        return [node for node in self if node is not leader and node.is_running()]

    def transfer(self, to, group=0):
        """Moves leadership to a node, asked of the leader."""

        def ask():
            leader = self.leader(group)
            if leader.name == to:
                return True
            request = leader.client.type("TransferLeaderRequest")(group=group, to=to)
            with contextlib.suppress(Refused):
                leader.client.call("TransferLeader", request, service="Admin")
            return None

        wait_for(f"{to} leads", ask)

    def stop(self):
        for process in [node.process for node in self if node.process] + self.extra:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                process.wait()
        for line in self.line.values():
            line.close()
        for node in self:
            if node._client:
                node._client.close()


class Load:
    """`clients` threads that append one entry after the other through a node (a port may be given by name), and count.

    `acknowledged`: how many; `gaps`: the longest time without one; `errors`: statuses by reason.
    """

    def __init__(self, cluster, journal, clients=16, through=None, payload=b"x" * 128):
        self.cluster, self.journal, self.through, self.payload = cluster, journal, through, payload
        self.times, self.errors, self._stop = [], {}, False
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        names = [self.through] if self.through else list(self.cluster.nodes)
        random.shuffle(names)
        channels = [Client(self.cluster[name].client_port) for name in names]
        mine, n, at = uuid.uuid4().hex[:12], 0, 0
        while not self._stop:
            n += 1
            while not self._stop:
                try:
                    channels[at % len(channels)].append(self.journal, [f"{mine}-{n}"], payload=self.payload, timeout=10.0)
                    with self._lock:
                        self.times.append(time.monotonic())
                    break
                except Refused as refused:
                    at += 1
                    with self._lock:
                        name = refused.reason or refused.code.name
                        self.errors[name] = self.errors.get(name, 0) + 1
        for channel in channels:
            channel.close()

    @property
    def acknowledged(self):
        return len(self.times)

    def rate(self, seconds):
        """Appends per second over the next `seconds`."""
        before, began = self.acknowledged, time.monotonic()
        time.sleep(seconds)
        return (self.acknowledged - before) / (time.monotonic() - began)

    def longest_gap(self, since=0.0):
        times = sorted(t for t in self.times if t >= since)
        return max((b - a for a, b in zip(times, times[1:])), default=float("inf"))

    def stop(self):
        self._stop = True
        for thread in self._threads:
            thread.join(30)
        return self


def run(trial):
    """Runs a trial in a directory of its own and ends the process: 0 if it passed."""
    dir = Path(tempfile.mkdtemp(prefix="tercet-outside-"))
    began, name = time.monotonic(), Path(sys.argv[0]).stem
    try:
        said = trial(dir)
    except BaseException:
        traceback.print_exc()
        print(f"FAILED {name} after {time.monotonic() - began:.1f} s; the nodes' words are in {dir}", flush=True)
        os._exit(1)
    shutil.rmtree(dir, ignore_errors=True)
    print(f"PASS {name} in {time.monotonic() - began:.1f} s{': ' + said if said else ''}", flush=True)
    # Threads of gRPC may still wait for something.
    os._exit(0)
