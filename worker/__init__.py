"""The straight line from a Kafka record to a score."""

import os

__version__ = "0.2.0.dev0"  # the only place; docs/releasing.md says what each part means

# ONNX Runtime 1.31 reports its use to its maker unless told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
