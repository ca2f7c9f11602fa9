"""Writes into the cards of the shipped fraud models what their training week looked like.

python -m training.references --data DIR               # models/fraud/1 and 2; their ONNX files stay
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.parity.pandas_reference import FEATURES
from training import model_folder
from training.fraud_data import data_folder, load_features, training_week

DEFAULTS = {name: 0.0 for name in FEATURES if name.startswith("terminal.")}  # as pipelines/fraud.yaml says
OUTPUTS: dict[str, dict[str, Any]] = {
    "1": {"tensor": "probabilities", "column": 1},
    "2": {"tensor": "fraud_probability", "column": None},
}


def fraud_reference(rows: NDArray[np.float32]) -> dict[str, dict[str, Any]]:
    """Return the reference of the training rows (n, 15), as a card says it."""
    return model_folder.reference_of(FEATURES, rows, DEFAULTS)


def main() -> None:
    """Describe the training week, and what each version says of it."""
    options = data_folder("references of fraud v1 and v2").parse_args()
    rows = training_week(load_features(options.data)).features
    for version, output in OUTPUTS.items():
        folder = model_folder.REPOSITORY / "fraud" / version
        model_folder.write_reference(
            folder, fraud_reference(rows), model_folder.score(folder / "model.onnx", rows, output)
        )
        print(f"{folder}: {len(rows):,} rows")


if __name__ == "__main__":
    main()
