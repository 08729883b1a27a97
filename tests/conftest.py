"""Fixtures for every test."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the reference networks, which are kept beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the reference networks (../shared/data) are not there")
    return SHARED_DATA
