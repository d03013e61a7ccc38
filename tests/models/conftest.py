"""A file of laws says pytest.mark.usefixtures("in_short_forms")."""

import pytest

from tests.models.short_forms import short_forms


@pytest.fixture(scope="module")
def in_short_forms():
    """Rows of a dozen tokens go through the blocks and chunks that long rows of users do."""
    with short_forms():
        yield
