"""The docstrings' reStructuredText as Markdown, for the site."""
import re
from typing import Any

import griffe

RULES = (
    # :class:`~a.b.Name` and :math:`x`
    (r':\w+:`~?([^`]+)`', r'`\1`'),
    # titles with their addresses, at the place or below
    (r'`([^`<]+?)\s+<(https?://[^>]+)>`_+', r'[\1](\2)'),
    (r'`([^`]+)`_\b', r'[\1]'),
    (r'^ *\.\. _(.+):\s+(https?://\S+)', r'[\1]: \2'),
    # formulas on lines of their own, and what comes before an example
    (r'^ *\.\. math::\s*\n', '\n'),
    (r'::$', ':'),
)


class Roles(griffe.Extension):
    """Replaces what Markdown does not know."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of a class, function or module."""
        if obj.docstring:
            for pattern, text in RULES:
                obj.docstring.value = re.sub(
                    pattern, text, obj.docstring.value, flags=re.MULTILINE)
