"""An ONNX Runtime session on the device asked for, or an error: never silently on another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class ModelError(Exception):
    """A model version that must not serve; the message says which check failed."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Session:
    """A session, where it really runs, and whether it may record what it does as CUDA graphs."""

    runtime: Any  # ort.InferenceSession
    device: str  # cpu, cuda:N, tensorrt:N
    has_graphs: bool


def has_nvidia_driver() -> bool:
    """Whether there is one: asked for CUDA without, ONNX Runtime writes ten lines of errors to stderr."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"))


def has_tree_operators(data: bytes) -> bool:
    """Whether an ONNX file needs what ONNX Runtime has on the CPU only."""
    return b"TreeEnsemble" in data


def open_session(path: Path, data: bytes, device: str, *, use_tf32: bool = False) -> Session:
    """Open a model that was read from path.

    Args:
        path: the ONNX file; its folder holds external data.
        data: its bytes, already compared with their sha256.
        device: cpu, cuda:N or tensorrt:N.
        use_tf32: see ModelCard.tf32.

    Raises:
        ModelError: the model does not run whole on the device.
    """
    kind, _, number = device.partition(":")
    if kind == "cuda":
        provider: dict[str, str] = {"device_id": number, "use_tf32": str(int(use_tf32))}
        try:
            # Refused where a node has no fixed place on the GPU, such as control flow.
            return Session(
                runtime=_open(path, data, device, {**provider, "enable_cuda_graph": "1"}),
                device=device,
                has_graphs=True,
            )
        except ModelError:
            pass  # without graphs it may do; what else is wrong is said by the second try
    else:
        provider = {"device_id": number} if number else {}
    return Session(runtime=_open(path, data, device, provider), device=device, has_graphs=False)


def _open(path: Path, data: bytes, device: str, of_provider: dict[str, str]) -> Any:
    name = _PROVIDERS[device.partition(":")[0]]
    options = ort.SessionOptions()
    # One thread, no spinning: the loop is one straight line, and idle cores belong to the other workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Where external data lies; given bytes, ONNX Runtime does not know the folder.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
    )
    options.log_severity_level = 4  # errors are raised too; logged, they would show feature values
    if device != "cpu":
        # Without these, a missing library or an unsupported node would silently be a CPU session.
        ort.preload_dlls()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(data, options, providers=[(name, of_provider)], enable_fallback=0)
    except Exception as error:
        raise ModelError(
            f"{path}: does not run on {device}: {first_line(error)}; expected a device "
            f"that can run every node (model.device: auto or cpu runs it on the CPU)"
        ) from error
    if name not in session.get_providers():
        raise ModelError(
            f"{path}: asked for {device}, ONNX Runtime gave {session.get_providers()}: are the extra `cuda` "
            f"and the driver installed? (`penstock doctor` shows what is missing)"
        )
    return session


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
