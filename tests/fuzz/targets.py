"""What is fuzzed: each target takes one input from outside and raises only what it promises to raise."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from prometheus_client import CollectorRegistry

from feature_cache.layout import Layout, SequenceGroup, WindowGroup
from feature_cache.packing import CorruptRowError, pack, unpack
from feature_cache.redis_address import parse_address
from feature_cache.rows import HotRows
from schemas.codec import Codec
from schemas.schema import Schema, load_schema, parse_schema
from schemas.table import to_table
from schemas.tree import SchemaError
from worker.admin import PAGES, Health, Switches, serve_admin
from worker.config import ConfigError, load_pipeline
from worker.model_file import CARD_FILE, load_model_card
from worker.onnx_file import OnnxFileError, external_files
from worker.rules import RuleError, parse_rule

ROOT = Path(__file__).parents[2]
WIRES: tuple[Literal["single_object", "raw"], ...] = ("single_object", "raw")  # confluent wants a registry
TOKEN = "a-token-of-some-length-5519"
_ANSWER_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One place where bytes from outside come in."""

    name: str
    seeds: Sequence[bytes]  # good inputs, to be damaged
    check: Callable[[bytes], None]  # raises on anything but what is promised


def targets(folder: Path) -> list[Target]:
    """All of them; files go into this folder."""
    return [
        _codec(),
        _named("json"),
        _named("protobuf"),
        _schema(),
        _pipeline_file(folder),
        _card(folder),
        _onnx(),
        _rows(),
        _rule(),
        _address(),
        _http(),
    ]


def _codec() -> Target:
    schemas = [load_schema(name) for name in ("transaction", "sensor_reading", "score", "alert", "label")]
    codecs = [Codec(schema, wire) for schema in schemas for wire in WIRES]
    seeds = [value for schema in schemas[:2] for value in _records(schema)]

    def check(data: bytes) -> None:
        cut = len(data) // 2
        values = [data, data[:cut], data[cut:], seeds[0], data + data]
        for codec in codecs:
            decoded = codec.decode(values)
            assert decoded.table.num_rows + len(decoded.rejects) == len(values), "a record without an outcome"

    return Target(name="codec", seeds=seeds, check=check)


def _named(form: Literal["json", "protobuf"]) -> Target:
    schemas = [load_schema(name) for name in ("transaction", "sensor_reading", "score", "alert", "label")]
    wires: tuple[Literal["confluent", "raw"], ...] = ("confluent", "raw")
    codecs = [Codec(schema, wire, format=form) for schema in schemas for wire in wires]
    seeds = [
        head + value
        for schema in schemas[:2]
        for value in Codec(schema, "raw", format=form).encode(to_table(schema, _columns(schema)))
        for head in (b"", b"\x00\x00\x00\x00\x01" if form == "json" else b"\x00\x00\x00\x00\x01\x00")
    ]

    def check(data: bytes) -> None:
        cut = len(data) // 2
        values = [data, data[:cut], data[cut:], seeds[0], data + data]
        for codec in codecs:
            decoded = codec.decode(values)
            assert decoded.table.num_rows + len(decoded.rejects) == len(values), "a record without an outcome"

    return Target(name=form, seeds=seeds, check=check)


def _columns(schema: Schema) -> dict[str, list[object]]:
    return {field.name: [_value(str(field.type))] for field in schema.arrow}


def _records(schema: Schema) -> list[bytes]:
    return [
        value
        for wire in ("single_object", "raw")
        for value in Codec(schema, wire).encode(to_table(schema, _columns(schema)))
    ]


def _value(kind: str) -> object:
    if kind == "string":
        return "POS"  # also a symbol of the enum
    return 1_760_000_000_000 if "timestamp" in kind or kind == "int64" else 1


def _schema() -> Target:
    def check(data: bytes) -> None:
        with suppress(SchemaError):
            schema = parse_schema(data.decode(errors="replace"))
            Codec(schema, "raw").decode([data[:64], b""])

    return Target(
        name="schema", seeds=[f.read_bytes() for f in sorted((ROOT / "schemas").glob("*.avsc"))], check=check
    )


def _pipeline_file(folder: Path) -> Target:
    file = folder / "pipelines" / "fuzzed.yaml"
    file.parent.mkdir()
    for shipped in (ROOT / "pipelines").glob("*.yaml"):
        (file.parent / shipped.name).write_bytes(shipped.read_bytes())
    (folder / "models").symlink_to(ROOT / "models")
    bomb = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))])
    seeds = [f.read_bytes() for f in sorted((ROOT / "pipelines").glob("*.yaml"))]
    seeds += [
        bomb.encode(),
        b"name: ${file:/dev/zero}\n",
        b"name: ${file:/proc/self/environ}\n",
        b"a: &a [*a]\n",
    ]

    def check(data: bytes) -> None:
        file.write_bytes(data)
        with suppress(ConfigError):
            load_pipeline(file, {})

    return Target(name="pipeline file", seeds=seeds, check=check)


def _card(folder: Path) -> Target:
    version = folder / "cards" / "fraud" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"")

    def check(data: bytes) -> None:
        (version / CARD_FILE).write_bytes(data)
        with suppress(ConfigError):
            load_model_card(version)

    seeds = [f.read_bytes() for f in sorted((ROOT / "models").glob("*/*/model.yaml"))]
    return Target(name="model card", seeds=seeds, check=check)


def _onnx() -> Target:
    def check(data: bytes) -> None:
        with suppress(OnnxFileError):
            external_files(data)

    smallest = min((ROOT / "models").glob("*/*/model.onnx"), key=lambda f: f.stat().st_size)
    return Target(name="onnx file", seeds=[smallest.read_bytes(), smallest.read_bytes()[:4096]], check=check)


def _rows() -> Target:
    window = WindowGroup(
        name="w",
        over="amount",
        windows_us=(3_600_000_000,),
        window_labels=("1h",),
        aggregates=("count",),
        capacity=8,
        allowed_lateness_us=0,
    )
    sequence = SequenceGroup(name="s", fields=("a", "b", "c"), length=4, capacity=6)
    rows = HotRows(Layout(groups=(window, sequence)), 4)
    slots = rows.add([b"k"], 0)

    def check(data: bytes) -> None:
        with suppress(CorruptRowError):
            unpack(rows, slots, [data])
            pack(rows, slots, 0)

    words = np.arange(32, dtype="<i8").tobytes()
    return Target(name="stored row", seeds=[*pack(rows, slots, 0), words], check=check)


def _rule() -> Target:
    names, columns = ["amount", "customer.count_1d"], np.ones((3, 2))
    seeds = [b"amount > 220 or customer.count_1d > 20", b"not (amount * 2 - 1 <= 3 and 1 < amount < 5)"]

    def check(data: bytes) -> None:
        with suppress(RuleError):
            parse_rule(data.decode(errors="replace"), names)(columns)

    return Target(name="rule", seeds=seeds, check=check)


def _address() -> Target:
    def check(data: bytes) -> None:
        with suppress(ValueError):
            parse_address(data.decode(errors="replace"))

    seeds = [
        b"redis://user:secret@localhost:6379/0",
        b"rediss+sentinel://:pw@a:1,b:2,[::1]:3/main/0?ssl_ca_certs=/ca.pem&socket_timeout=1.5",
    ]
    return Target(name="redis address", seeds=seeds, check=check)


def _http() -> Target:
    said = [Health(pipeline="p", loop_age_s=0.1, is_ready=True, device="cpu")]
    changed: list[str] = []

    def change(query: Mapping[str, str]) -> str:
        changed.append(str(query))
        return "changed"

    switches = Switches(token=TOKEN, changes={"/switch": change})
    server = serve_admin("127.0.0.1", 0, lambda: said, CollectorRegistry(), switches)
    address = ("127.0.0.1", int(server.server_address[1]))

    def ask(data: bytes) -> bytes:
        with socket.create_connection(address, timeout=_ANSWER_S) as connection:
            answer = b""
            with suppress(ConnectionError):  # refused while we were still sending
                connection.sendall(data)
                with suppress(OSError):  # refused and closed meanwhile, which it may
                    connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    answer += chunk
            return answer

    def check(data: bytes) -> None:
        answer = ask(data)
        assert not answer or answer.startswith(b"HTTP/1.0 "), "an answer without a status"
        assert TOKEN.encode() not in answer
        assert not changed or TOKEN.encode() in data, "something was changed without the token"
        changed.clear()
        assert ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200"), "the next one got no answer"
        assert threading.active_count() < 100

    heads = [f"GET {page} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n".encode() for page in PAGES]
    switch = f"POST /switch?to=1 HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 3\r\n\r\nabc"
    return Target(name="http", seeds=[*heads, switch.encode()], check=check)


def dictionary() -> list[bytes]:
    """Pieces that parsers stumble over, to be put in anywhere."""
    numbers = [str(n).encode() for n in (-1, 0, 2**31, 2**63, 10**400)]
    yaml_bits = [
        b"&a",
        b"*a",
        b"!!python/object:os.system ",
        b"<<: ",
        b"|\n",
        b"? ",
        b"${file:/etc/passwd}",
        b"${",
        b"{" * 40,
    ]
    names = [
        json.dumps(key).encode() for key in yaml.safe_load((ROOT / "pipelines" / "fraud.yaml").read_text())
    ]
    return [
        b"",
        b"\0",
        b"\xff" * 9,
        b"\x80" * 12,
        b"\r\n\r\n",
        b"..",
        b"/",
        b"%00",
        b"nan",
        *numbers,
        *yaml_bits,
        *names,
    ]


def scratch() -> Path:
    """A folder for the files of the targets."""
    return Path(tempfile.mkdtemp(prefix="penstock-fuzz-"))
