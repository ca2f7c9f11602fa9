"""A model version is its folder: ONNX Runtime sees no file outside it, and none the card does not know."""

from __future__ import annotations

import hashlib
import os
import random
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.builders import FLOAT, field_bytes, field_number, onnx_bytes
from worker.config import ConfigError
from worker.model_file import MAX_GOLDEN_BYTES, check_sha256, load_model_card
from worker.onnx_file import OnnxFileError, external_files

WEIGHTS = np.array([2.0, 3.0], np.float32).tobytes()


def external_tensor(location: str, *, more: bytes = b"") -> bytes:
    """A TensorProto of two floats that lie in another file."""
    entry = field_bytes(1, "location") + field_bytes(2, location)
    head = field_number(1, 2) + field_number(2, FLOAT) + field_bytes(8, "w")
    return head + field_bytes(13, entry) + field_number(14, 1) + more


def onnx_with(tensors: Sequence[bytes]) -> bytes:
    """A real ONNX file: y = x * w, where w is an initializer."""
    extra = b"".join(field_bytes(5, tensor) for tensor in tensors)
    return onnx_bytes(
        [("Mul", ["x", "w"], ["y"])], [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])], graph_extra=extra
    )


def version(folder: Path, onnx: bytes, external: dict[str, str] | None = None) -> Path:
    """A model version with these bytes and a card for them."""
    made = folder / "m" / "1"
    made.mkdir(parents=True, exist_ok=True)
    (made / "model.onnx").write_bytes(onnx)
    lines = "".join(f"  {name!r}: {sha}\n" for name, sha in (external or {}).items())
    (made / "model.yaml").write_text(
        f'name: m\nversion: "1"\ndescription: d\nsha256: {hashlib.sha256(onnx).hexdigest()}\n'
        + (f"external_data:\n{lines}" if lines else "")
        + "inputs: [{tensor: x, dtype: float32, shape: [n, 2], features: [a, b]}]\n"
        + "output: {tensor: y, column: 0, meaning: probability}\n"
    )
    return made


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_external_data_in_the_folder_that_the_card_knows_is_taken_and_runs(tmp_path: Path) -> None:
    folder = version(tmp_path, onnx_with([external_tensor("w.bin")]), {"w.bin": sha(WEIGHTS)})
    (folder / "w.bin").write_bytes(WEIGHTS)

    data = check_sha256(load_model_card(folder))

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones((1, 2), np.float32)})
    assert y.tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "../../secret.bin",
        "sub/../../secret.bin",
        "/etc/passwd",
        "../../../../../../../../../../etc/passwd",
        "..\\secret.bin",
        "link.bin",
        "linked/secret.bin",
        ".",
        "",
        "missing.bin",
        "w.bin\0.txt",
    ],
)
def test_external_data_that_leads_out_of_the_folder_is_refused_before_anything_loads_it(
    tmp_path: Path, location: str
) -> None:
    for at in (tmp_path, tmp_path / "m"):
        at.mkdir(exist_ok=True)
        (at / "secret.bin").write_bytes(WEIGHTS)
    folder = version(tmp_path, onnx_with([external_tensor(location)]))
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    os.symlink(tmp_path, folder / "linked")

    with pytest.raises(ConfigError) as refused:
        check_sha256(load_model_card(folder))

    assert "expected a file in the folder of the model version" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_external_data_that_the_card_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = version(tmp_path, onnx_with([external_tensor("w.bin")]))
    (folder / "w.bin").write_bytes(WEIGHTS)

    with pytest.raises(ConfigError, match=r'external_data: found nothing, while model.onnx names "w.bin"'):
        check_sha256(load_model_card(folder))


def test_external_data_other_than_the_card_was_written_for_is_refused(tmp_path: Path) -> None:
    folder = version(tmp_path, onnx_with([external_tensor("w.bin")]), {"w.bin": sha(WEIGHTS)})
    (folder / "w.bin").write_bytes(WEIGHTS[::-1])

    with pytest.raises(ConfigError, match=r"external_data.w.bin: found [0-9a-f]{64} in w.bin"):
        check_sha256(load_model_card(folder))


def test_a_card_cannot_make_another_file_the_model(tmp_path: Path) -> None:
    onnx = onnx_with([])
    folder = version(tmp_path, onnx)
    (tmp_path / "other.onnx").write_bytes(onnx)
    card = folder / "model.yaml"
    for file in ("../../other.onnx", str(tmp_path / "other.onnx")):
        card.write_text(card.read_text().split("file:")[0] + f"file: {file}\n")
        with pytest.raises(ConfigError, match="expected a file in the folder of the model version"):
            check_sha256(load_model_card(folder))


def test_every_place_of_a_tensor_is_looked_at() -> None:
    """In attributes, subgraphs, functions, training graphs, sparse tensors; and the first of two, too."""
    tensor = external_tensor("deep.bin")
    graph = field_bytes(5, tensor)
    attribute = {
        "t": field_bytes(5, tensor),
        "g": field_bytes(6, graph),
        "tensors": field_bytes(10, tensor),
        "graphs": field_bytes(11, graph),
        "sparse": field_bytes(22, field_bytes(1, tensor)),
        "sparse indices": field_bytes(23, field_bytes(2, tensor)),
        "nested": field_bytes(6, field_bytes(1, field_bytes(5, field_bytes(5, tensor)))),
    }
    models = {name: field_bytes(7, field_bytes(1, field_bytes(5, a))) for name, a in attribute.items()}
    models["initializer"] = field_bytes(7, graph)
    models["sparse initializer"] = field_bytes(7, field_bytes(15, field_bytes(1, tensor)))
    models["function"] = field_bytes(25, field_bytes(7, field_bytes(5, attribute["t"])))
    models["function attribute"] = field_bytes(25, field_bytes(11, attribute["t"]))
    models["training"] = field_bytes(20, field_bytes(1, graph))
    models["training step"] = field_bytes(20, field_bytes(2, graph))
    models["an earlier graph"] = field_bytes(7, graph) + field_bytes(7, b"")
    twice = field_bytes(1, "location") + field_bytes(2, "deep.bin") + field_bytes(2, "nice.bin")
    models["an earlier location"] = field_bytes(7, field_bytes(5, field_bytes(13, twice)))
    value_first = field_bytes(2, "deep.bin") + field_bytes(1, "location")
    models["value before key"] = field_bytes(7, field_bytes(5, field_bytes(13, value_first)))

    for name, model in models.items():
        assert "deep.bin" in external_files(model), name


def test_an_operator_that_loads_compiled_code_is_refused() -> None:
    node = field_bytes(4, "EPContext")

    with pytest.raises(OnnxFileError, match="EPContext"):
        external_files(field_bytes(7, field_bytes(1, node)))


def test_bytes_that_are_no_onnx_file_are_refused_or_name_nothing_and_never_crash() -> None:
    whole = onnx_with([external_tensor("w.bin")])
    rng = random.Random(1)
    assert external_files(whole) == ("w.bin",)
    for cut in range(len(whole)):
        _look_at(whole[:cut])
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        _look_at(bytes(damaged))


def _look_at(data: bytes) -> None:
    with suppress(OnnxFileError):
        external_files(data)


def test_golden_vectors_that_unpack_to_gigabytes_are_refused_unopened(tmp_path: Path) -> None:
    folder = version(tmp_path, onnx_with([]))
    with (
        zipfile.ZipFile(folder / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as entry,
    ):
        for _ in range(MAX_GOLDEN_BYTES // (1 << 20) + 1):
            entry.write(bytes(1 << 20))

    with pytest.raises(ConfigError, match="bytes unpacked, expected at most"):
        check_sha256(load_model_card(folder))
