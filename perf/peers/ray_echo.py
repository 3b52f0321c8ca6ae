"""A Ray actor that answers its input, and the driver that times calls of it: the no-op of plot `peers`.

The one who measures connects to the Unix socket `control` in this working directory, which appears once the actor answers,
and says lines: `calls BYTES WARM_UP SAMPLES` and `graph BYTES WARM_UP SAMPLES` are answered with a JSON line of spans in
nanoseconds or an error; `end`, or the end of the connection, ends Ray with all its processes.

Ray's servers listen on every interface, so this program is started in a network namespace of its own, whose loopback it brings
up; and in a process namespace, so that none of Ray's processes outlives it.
"""

import fcntl
import json
import os
import socket
import struct
import time

import ray
from ray.dag import InputNode

# Objects of these calls are at most 1 KiB and live for one call; Ray asks for no less than this.
OBJECT_STORE_BYTES = 128 * 1024 * 1024
# Longest wait for one answer, seconds.
CALL_PATIENCE_S = 30
# Bytes that a channel of the compiled graph holds at most.
CHANNEL_BYTES = 64 * 1024

# Of <net/if.h> and <linux/sockios.h>.
IFF_UP = 1
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
# A `struct ifreq` whose union holds flags.
INTERFACE_FLAGS = "16sH14x"


def bring_loopback_up():
    """Refuses to go on in a network that has anything beside loopback."""
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    if others:
        raise RuntimeError(f"Ray would listen on {others}: start this program in a network namespace of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack(INTERFACE_FLAGS, b"lo", 0)
        _, flags = struct.unpack(INTERFACE_FLAGS, fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(INTERFACE_FLAGS, b"lo", flags | IFF_UP))


@ray.remote
class Echo:
    def echo(self, payload):
        return payload


def payload_of(number, size):
    """`size` bytes that depend on `number`, as every system of the plot is sent."""
    return number.to_bytes(8, "little") * (size // 8)


def timed(call, size, warm_up, samples):
    """Spans of `samples` calls after `warm_up` others; the answers are compared within the spans, the payloads made there."""
    spans_ns = []
    before = time.perf_counter_ns()
    for number in range(warm_up + samples):
        payload = payload_of(number, size)
        answer = call(payload)
        if answer != payload:
            raise ValueError(f"call {number} was answered with something else")
        now = time.perf_counter_ns()
        if number >= warm_up:
            spans_ns.append(now - before)
        before = now
    return spans_ns


class Calls:
    """The ways to call the actor. The compiled graph occupies it, so it has an actor of its own, made when asked for."""

    def __init__(self):
        self.actor = Echo.remote()
        self.graph = None

    def plain(self, payload):
        return ray.get(self.actor.echo.remote(payload), timeout=CALL_PATIENCE_S)

    def compiled(self, payload):
        if self.graph is None:
            actor = Echo.remote()
            with InputNode() as given:
                graph = actor.echo.bind(given)
            self.graph = graph.experimental_compile(_buffer_size_bytes=CHANNEL_BYTES)
        return ray.get(self.graph.execute(payload), timeout=CALL_PATIENCE_S)

    def end(self):
        if self.graph is not None:
            self.graph.teardown()


def answer(calls, line):
    way, *figures = line.split()
    size, warm_up, samples = map(int, figures)
    call = {"calls": calls.plain, "graph": calls.compiled}[way]
    try:
        return {"spans_ns": timed(call, size, warm_up, samples)}
    except Exception as error:  # Whatever it is, it belongs into the row.
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    bring_loopback_up()
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.path.join(os.getcwd(), "ray"),
    )
    calls = Calls()
    calls.plain(payload_of(0, 64))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("control")
    listener.listen(1)
    connection, _ = listener.accept()
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            if line.strip() == "end":
                break
            lines.write(json.dumps(answer(calls, line)) + "\n")
            lines.flush()
        calls.end()
        ray.shutdown()


if __name__ == "__main__":
    main()
