"""A hook of the site: links out of docs/ to the repository's files become text, since a site has no such files.

In plain Markdown, as a repository shows it, they stay links.
"""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page, before it is rendered."""
    folder = posixpath.dirname(page.file.src_uri)

    def shown(found: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join("docs", folder, found[2]))
        if place.startswith("docs/"):
            return found[0]
        return found[1] if place.rpartition("/")[2] in found[1] else f"{found[1]} (`{place}`)"

    return _LINK.sub(shown, markdown)
