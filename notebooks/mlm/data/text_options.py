"""Valid values of the parameters that say how a text is read: `encoding` and `documents`.

This module imports no package, so that parameters are checked before packages are installed.
"""

import codecs

DOCUMENTS = {  # values of the parameter `documents`: what they mean
    "file": "each file is one",
    "blank line": "blank lines separate them",
    "line": "each line is one",
}


NO_CHARACTER_SETS = {"idna", "punycode", "raw-unicode-escape", "unicode-escape"}


def is_encoding(name: str) -> bool:
    """Whether Python knows a text encoding of this name."""
    try:
        if codecs.lookup(name).name in NO_CHARACTER_SETS:
            return False
        b"".decode(name)  # fails for codecs such as "base64", which are not of text
        "".encode(name)
        return True
    except (LookupError, ValueError):
        return False
