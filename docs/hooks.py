"""What the documentation site changes in the pages: links to files outside of `docs/`."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+(?!docs/)[^)#]*)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show the path of a file of the repository, where the repository itself would link to it."""
    depth = page.file.src_uri.count("/")

    def shown(match: re.Match[str]) -> str:
        text, target = match.groups()
        if target.count("../") <= depth:
            return match.group(0)
        path = target.replace("../", "")
        return f"{text}" if path in text else f"{text} (`{path}`)"

    return _OUTSIDE.sub(shown, markdown)
