"""For tests of bridges: two sides with a line between them, closed at the end."""

import pytest
from sides import Both


@pytest.fixture
def make():
    made = []

    def making(*words, **more):
        made.append(Both(*words, **more))
        return made[-1]

    yield making
    for both in made:
        both.close()
