"""Writes rows of a model with their truth, for `penstock models quantize --calibration`."""

from pathlib import Path

import numpy as np

from training.cmapss_data import LONGEST_LIFE, last_windows, training_windows
from training.fraud_data import data_folder, kept_test_week, load_features


def main() -> None:
    """Write one .npz with an array for the model's input, and `label`."""
    parser = data_folder(__doc__ or "")
    parser.add_argument("model", choices=["fraud", "rul"])
    parser.add_argument("rows", type=Path, help="the .npz to write")
    arguments = parser.parse_args()
    if arguments.model == "fraud":
        week = kept_test_week(load_features(arguments.data))
        np.savez(arguments.rows, features=week.features, label=week.truth)
        return
    training, test = training_windows(arguments.data), last_windows(arguments.data)
    every = slice(None, None, 4)  # a window shares 29 of its 30 readings with the next
    np.savez(
        arguments.rows,
        readings=np.concatenate([training.readings[every], test.readings]),
        label=np.minimum(np.concatenate([training.life[every], test.life]), LONGEST_LIFE),
    )


if __name__ == "__main__":
    main()
