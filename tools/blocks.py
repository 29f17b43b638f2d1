"""Generated blocks of Markdown files, between <!-- NAME --> and <!-- /NAME -->."""

import re


def with_block(text: str, name: str, content: str, file: str) -> str:
    """A Markdown text with its block `name` replaced by `content`.

    Raises SystemExit where the text does not have the two markers, in this order, once.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    block = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if (text.count(begin), text.count(end), len(block.findall(text))) != (1, 1, 1):
        raise SystemExit(
            f"{file} must contain {begin} and {end}, once each: the text between them is generated"
        )
    return block.sub(lambda _: f"{begin}\n{content.strip()}\n{end}", text)
