"""The public datasets, where they are at hand; they may not be redistributed with the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder with fraud/*.parquet and cmapss/*.parquet: PENSTOCK_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("PENSTOCK_DATA", _BESIDE))
    if not (folder / "fraud" / "transactions.parquet").exists():
        pytest.skip("the public datasets are not here: set PENSTOCK_DATA (see training/README.md)")
    return folder
