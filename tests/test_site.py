"""The site of docs/: every page stands in the navigation once, and what it names exists."""

import sys

import pytest

from tests.scripts import DOCS


@pytest.fixture(scope="module")
def navigation():
    sys.path.insert(0, str(DOCS))
    from pages import navigation

    yield navigation
    sys.path.remove(str(DOCS))


def targets(tree):
    for entry in tree:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from targets([below] if isinstance(below, str) else below)


def test_every_page_stands_in_the_navigation_once(navigation):
    named = list(targets(navigation.tree()))
    written = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert len(named) == len(set(named))
    assert set(named) == written | navigation.generated().keys()
