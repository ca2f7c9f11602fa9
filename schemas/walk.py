"""The strict reading of one payload: every byte must be where the one canonical encoding has it."""

from collections.abc import Callable
from typing import Final

from schemas.tree import Node

Step = Callable[[bytes, int], int]  # (payload, position) -> next position
Walk = Callable[[bytes], None]

_INT_MIN: Final = -(1 << 31)
_INT_MAX: Final = (1 << 31) - 1


class Malformed(Exception):
    """A payload is not a value of its schema."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason  # a code in snake_case
        self.found = detail  # what was found and what was expected, without any value of the record
        self.path: list[str] = []  # the fields from the outermost to the one that is wrong

    @property
    def detail(self) -> str:
        """Return the sentence for people, with the field in front."""
        return f"{'.'.join(self.path)}: {self.found}" if self.path else self.found


def compile_walk(node: Node) -> Walk:
    """Return a function that raises Malformed unless a payload is exactly one value of the node.

    Stricter than the decoders: numbers must be written in as few bytes as they need, booleans are 0 or 1,
    and nothing may follow the value. The walk copies nothing, and visits no more items than there are bytes.
    """
    step = compile_step(node)

    def walk(payload: bytes) -> None:
        end = step(payload, 0)
        if end != len(payload):
            raise Malformed(
                "trailing_bytes", f"found {len(payload)} bytes, expected the value to end after {end}"
            )

    return walk


def read_long(data: bytes, pos: int) -> tuple[int, int]:
    """Return (value, next position) of a zigzag varint.

    Raises:
        Malformed: cut short, longer than needed, or beyond 64 bits.
    """
    raw = shift = 0
    start = pos
    while True:
        if pos >= len(data):
            raise Malformed("truncated", f"found the end after {pos} bytes, expected more of a number")
        byte = data[pos]
        pos += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise Malformed("bad_varint", "found a number of more than 10 bytes, expected at most 10")
    if byte == 0 and pos - start > 1:
        raise Malformed("bad_varint", f"found a number in {pos - start} bytes, expected the shortest form")
    if raw >> 64:
        raise Malformed("bad_varint", "found a number beyond 64 bits, expected at most 64")
    return (raw >> 1) ^ -(raw & 1), pos


def compile_step(node: Node) -> Step:
    """Return a function that reads one value of the node in the midst of a payload, or raises Malformed."""
    if node.kind == "record":
        return _record(node)
    if node.kind == "union":
        return _union(node)
    if node.kind in {"array", "map"}:
        return _blocks(node)
    if node.kind == "enum":
        return _enum(len(node.symbols))
    if node.kind in _SIZES or node.kind == "fixed":
        return _bytes_of(node.size if node.kind == "fixed" else _SIZES[node.kind])
    return {"boolean": _boolean, "int": _int, "long": _long, "bytes": _bytes, "string": _string}[node.kind]


_SIZES: Final = {"null": 0, "float": 4, "double": 8}


def _long(data: bytes, pos: int) -> int:
    return read_long(data, pos)[1]


def _int(data: bytes, pos: int) -> int:
    value, end = read_long(data, pos)
    if not _INT_MIN <= value <= _INT_MAX:
        raise Malformed("out_of_range", "found an int beyond 32 bits, expected at most 32")
    return end


def _boolean(data: bytes, pos: int) -> int:
    if pos >= len(data):
        raise Malformed("truncated", f"found the end after {pos} bytes, expected a boolean")
    if data[pos] > 1:
        raise Malformed("bad_boolean", f"found byte {data[pos]}, expected 0 or 1")
    return pos + 1


def _span(data: bytes, pos: int) -> tuple[int, int]:
    length, start = read_long(data, pos)
    if length < 0:
        raise Malformed("negative_length", f"found length {length}, expected at least 0")
    if length > len(data) - start:
        raise Malformed("truncated", f"found {len(data) - start} bytes, expected {length}")
    return start, start + length


def _bytes(data: bytes, pos: int) -> int:
    return _span(data, pos)[1]


def _string(data: bytes, pos: int) -> int:
    start, end = _span(data, pos)
    try:
        data[start:end].decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(
            "invalid_utf8", f"found {error.reason} at byte {error.start}, expected UTF-8"
        ) from error
    return end


def _bytes_of(size: int) -> Step:
    def step(data: bytes, pos: int) -> int:
        if size > len(data) - pos:
            raise Malformed("truncated", f"found {len(data) - pos} bytes, expected {size}")
        return pos + size

    return step


def _enum(symbols: int) -> Step:
    def step(data: bytes, pos: int) -> int:
        index, end = read_long(data, pos)
        if not 0 <= index < symbols:
            raise Malformed("bad_enum", f"found enum index {index}, expected 0 to {symbols - 1}")
        return end

    return step


def _union(node: Node) -> Step:
    steps = [compile_step(branch) for branch in node.branches]

    def step(data: bytes, pos: int) -> int:
        index, start = read_long(data, pos)
        if not 0 <= index < len(steps):
            raise Malformed("bad_union", f"found union index {index}, expected 0 to {len(steps) - 1}")
        return steps[index](data, start)

    return step


def _record(node: Node) -> Step:
    steps = [(field.name, compile_step(field.node)) for field in node.fields]

    def step(data: bytes, pos: int) -> int:
        name = ""
        try:
            for name, read in steps:  # noqa: B007 (the name is for the message below)
                pos = read(data, pos)
        except Malformed as error:
            error.path.insert(0, name)
            raise
        return pos

    return step


def _blocks(node: Node) -> Step:
    """Return the step for an array or a map, which come in counted blocks that end with a count of 0."""
    read_item = compile_step(node.inner)
    least_bytes = node.inner.least_bytes + (node.kind == "map")

    def step(data: bytes, pos: int) -> int:
        while True:
            count, pos = read_long(data, pos)
            if count == 0:
                return pos
            end = -1
            if count < 0:  # then the size of the block follows
                size, pos = read_long(data, pos)
                count, end = -count, pos + size
                if size < 0:
                    raise Malformed("negative_length", f"found block size {size}, expected at least 0")
            if count > (len(data) - pos) // least_bytes:
                raise Malformed("truncated", f"found {len(data) - pos} bytes, expected {count} items")
            for _ in range(count):
                if node.kind == "map":
                    pos = _string(data, pos)
                pos = read_item(data, pos)
            if end not in {-1, pos}:
                raise Malformed("bad_block_size", f"found a block that ends at byte {pos}, expected {end}")

    return step
