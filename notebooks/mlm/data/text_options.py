"""Valid values of the parameters that say how a text is read: `encoding` and `documents`.

This module imports nothing, so that parameters are checked before packages are installed.
"""

DOCUMENTS = {  # values of the parameter `documents`: what they mean
    "file": "each file is one",
    "blank line": "blank lines separate them",
    "line": "each line is one",
}


def is_encoding(name: str) -> bool:
    """Whether Python knows a text encoding of this name."""
    try:
        b"".decode(name)  # fails for codecs such as "base64", which are not of text
        "".encode(name)
        return True
    except (LookupError, ValueError):
        return False
