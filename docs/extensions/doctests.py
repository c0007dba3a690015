"""For the documentation site: examples of docstrings (`>>>`) become blocks of code."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:^|(?<=\n\n))( *>>> .*?)(?=\n\n|\Z)", re.S)


class Doctests(griffe.Extension):
    """Put a fence around each paragraph that begins with `>>>`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = EXAMPLE.sub(r"```pycon\n\1\n```", obj.docstring.value)
            obj.docstring.value = text
