"""The embedded bus: librdkafka's mock cluster in a process of its own, for the demo and quick tests."""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import confluent_kafka

# A waiting fetch on the mock cluster is never woken by new data: this wait is the latency of a quiet reader.
FETCH_WAIT_MS = 5
_GROUP_DELAY_MS = 100  # the cluster's default keeps the first member of a group waiting for 3 s
_PARENT_CHECK_S = 1.0


@contextlib.contextmanager
def embedded_bus(topics: Mapping[str, int], *, start_timeout_s: float = 20.0) -> Iterator[str]:
    """Run a bus of its own as long as the block lasts.

    Args:
        topics: name to number of partitions; other topics come into being on first use, with four.
        start_timeout_s: how long the process may take to listen.

    Yields:
        The bootstrap string for any Kafka client on this machine.

    Raises:
        RuntimeError: the bus did not come up.
    """
    asked = [f"--topic={name}:{partitions}" for name, partitions in topics.items()]
    # The working directory is not enough: the caller may have the package from elsewhere.
    root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    with subprocess.Popen(
        [sys.executable, "-m", "loadgen.bus", *asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        try:
            yield _bootstrap_line(process, start_timeout_s)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _bootstrap_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    assert process.stdout is not None
    ready = select.poll()  # unlike select() it takes descriptors of 1024 and more
    ready.register(process.stdout, select.POLLIN)
    line = process.stdout.readline().strip() if ready.poll(timeout_s * 1000) else ""
    if not line:
        raise RuntimeError(f"the embedded bus did not come up within {timeout_s:.0f} s")
    return line


def start_cluster(topics: Mapping[str, int]) -> tuple[str, object]:
    """Start the mock cluster in this process.

    Returns:
        The bootstrap string and what must stay referenced for the cluster to live.
    """
    library = _library()
    return _start_by_symbols(library, topics) if library is not None else _start_by_client(topics)


def _library() -> ctypes.CDLL | None:
    # The symbols are experimental API of the bundled library; the plain client can do nearly the same.
    bundled = Path(confluent_kafka.__file__).resolve().parent.parent / "confluent_kafka.libs"
    for path in sorted(bundled.glob("librdkafka*.so*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "rd_kafka_mock_cluster_new"):
            return library
    return None


def _start_by_symbols(library: ctypes.CDLL, topics: Mapping[str, int]) -> tuple[str, object]:
    pointer, text, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    library.rd_kafka_conf_new.restype = pointer
    library.rd_kafka_conf_set.argtypes = [pointer, text, text, text, ctypes.c_size_t]
    library.rd_kafka_new.restype = pointer
    library.rd_kafka_new.argtypes = [integer, pointer, text, ctypes.c_size_t]
    library.rd_kafka_mock_cluster_new.restype = pointer
    library.rd_kafka_mock_cluster_new.argtypes = [pointer, integer]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [pointer, ctypes.c_int32]
    library.rd_kafka_mock_topic_create.argtypes = [pointer, text, integer, integer]
    library.rd_kafka_mock_cluster_bootstraps.restype = text
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]

    reason = ctypes.create_string_buffer(256)
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(
        settings, b"log_level", b"3", reason, len(reason)
    )  # it has no servers, and says so
    handle = library.rd_kafka_new(0, settings, reason, len(reason))
    cluster = library.rd_kafka_mock_cluster_new(handle, 1) if handle else None
    if not cluster:
        raise RuntimeError(f"librdkafka could not start its mock cluster: {reason.value.decode()}")
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, _GROUP_DELAY_MS)
    for name, partitions in topics.items():
        error = library.rd_kafka_mock_topic_create(cluster, name.encode(), partitions, 1)
        if error:
            raise RuntimeError(f"topic {name}:{partitions} could not be created, librdkafka error {error}")
    return library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), (library, handle, cluster)


def _start_by_client(topics: Mapping[str, int]) -> tuple[str, object]:
    client = confluent_kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x"})
    brokers = client.list_topics(timeout=10).brokers.values()
    for name in topics:  # naming a topic is all that this client can do: it comes with four partitions
        client.list_topics(name, timeout=10)
    return ",".join(f"{broker.host}:{broker.port}" for broker in brokers), client


def _topic(text: str) -> tuple[str, int]:
    name, _, partitions = text.partition(":")
    if not name or not partitions.isdecimal() or int(partitions) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected name:partitions, like transactions:4")
    return name, int(partitions)


def main(argv: list[str] | None = None) -> int:
    """Print the bootstrap string as one line and serve until stdin closes, SIGTERM, or the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.bus", description=main.__doc__)
    parser.add_argument("--topic", type=_topic, action="append", default=[], metavar="NAME:PARTITIONS")
    topics = dict(parser.parse_args(argv).topic)
    parent = os.getppid()
    wake_read, wake_write = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(wake_write, b"x"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the program that started the bus
    bootstrap, cluster = start_cluster(topics)
    print(bootstrap, flush=True)
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin, wake_read], [], [], _PARENT_CHECK_S)
        if wake_read in readable or (sys.stdin in readable and not os.read(sys.stdin.fileno(), 4096)):
            break
    del cluster
    # No orderly shutdown: the data ends with this process, and destroying the handle waits for its clients.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
