"""What mkdocs calls in `make docs`: generated pages, links out of docs/, nothing remote.

A page that is written stands in docs/; one that is generated is made by `docs/pages/`, and exists
in the built site alone. The first page is the README.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority, get_plugin_logger
from mkdocs.structure.files import File, Files
from pages import navigation

LOG = get_plugin_logger("seqzoo")
ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
LISTED = re.compile(r"^\| (?:`\w+`(?:, )?)+ \|", re.MULTILINE)
REMOTE = re.compile(
    r"<(?:script|img|iframe|link rel=.(?:stylesheet|preconnect).)[^>]*https?://[^ >]*"
)
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


@event_priority(100)  # before mkdocstrings reads where packages are
def on_config(config: Any) -> Any:
    """Gives the navigation, and the repository where pyproject.toml names one."""
    config.nav = navigation.tree()
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(_packages())]
    config.repo_url = _repository()
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds what is generated."""
    for address, made in navigation.generated().items():
        files.append(File.generated(config, address, content=made()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads links to files that are no page of the site to the repository."""
    known = set(files.src_uris)
    section = page.file.src_uri.removesuffix(".md")
    if section in ("mixers", "tasks"):  # the lists lead to the generated pages
        markdown = LISTED.sub(lambda found: _listed(found[0], section, known), markdown)
    parts = FENCE.split(markdown)
    parts[::2] = [_led(part, page.file.src_uri, known, config.repo_url) for part in parts[::2]]
    return "".join(parts)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Says so where a page would load something from the network."""
    for remote in REMOTE.findall(output):
        LOG.warning("%s loads %s", page.file.src_uri, remote)
    return output


def _listed(cell: str, section: str, known: set[str]) -> str:
    def led(name: re.Match) -> str:
        there = f"{section}/{name[1]}.md"
        return f"[{name[0]}]({there})" if there in known else name[0]

    return re.sub(r"`(\w+)`", led, cell)


def _led(text: str, here: str, known: set[str], repository: str | None) -> str:
    def led(found: re.Match) -> str:
        picture, says, target, anchor = found.groups()
        if ":" in target or _inside(here, target) in known:
            return found[0]
        outside = posixpath.normpath(posixpath.join("docs", posixpath.dirname(here), target))
        if not (ROOT / outside).exists():
            return found[0]  # mkdocs says that there is no such page
        if repository is None or picture:
            return says
        return f"[{says}]({repository}/blob/main/{outside}{anchor or ''})"

    return LINK.sub(led, text)


def _inside(here: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), target))


def _packages() -> Path:
    """A folder in which the packages stand by their names, as links, for who reads them so."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    top = ROOT / "build" / "packages"
    shutil.rmtree(top, ignore_errors=True)
    (top / "seqzoo").mkdir(parents=True)
    for name, folder in setuptools["package-dir"].items():
        _, _, below = name.partition(".")
        if below.count("."):
            continue  # stands in a folder that is linked
        for path in [ROOT / folder] if below else (ROOT / folder).glob("*.py"):
            (top / "seqzoo" / (below or path.name)).symlink_to(path)
    return top


def _repository() -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    named = (urls.get(name) for name in ("repository", "source", "homepage"))
    return os.environ.get("SEQZOO_REPOSITORY") or next((url for url in named if url), None)
