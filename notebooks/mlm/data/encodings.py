"""The encoding of a text file: decode it, or say where it fails and which encodings are likely."""

import codecs
import contextlib
import io
import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import BinaryIO

from mlm.data.archives import ByteFile, damage_reported
from mlm.data.file_types import is_binary
from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

MAX_SCANNED = 2**27  # bytes that are examined to describe an error
LINES_CHARS = 2**16  # lines are read from disk in lists of about this size
SAMPLE_BYTES = 2**16  # of lines that are not UTF-8, to guess their encoding
MAX_ODDNESS = 0.25  # of plausible text, see `likely_encodings`; of right encodings at most 0.17
DOUBT_BYTES = 2**13  # of a file, to doubt the given encoding
COHERENCE_STEP = 0.2  # between two encodings, if one of them is much more plausible
ODD_CATEGORIES = {"So", "Sk", "Sm", "Lm", "No", "Cc", "Cn", "Co"}

# Encodings of older text files: {Python's name: the name for iconv}. Of equally likely encodings, the
# first is suggested.
LIKELY_ENCODINGS = {
    "gb18030": "GB18030", "big5": "BIG5",  # Chinese
    "cp932": "CP932", "euc_jp": "EUC-JP",  # Japanese
    "cp949": "CP949",  # Korean
    "cp1252": "CP1252", "iso8859_15": "ISO-8859-15",  # Western European
    "cp1251": "CP1251", "koi8_r": "KOI8-R", "iso8859_5": "ISO-8859-5",  # Cyrillic
    "cp1250": "CP1250", "iso8859_2": "ISO-8859-2",  # Central European
    "cp1253": "CP1253", "cp1254": "CP1254", "cp1255": "CP1255",  # Greek, Turkish, Hebrew
    "cp1256": "CP1256", "cp874": "CP874",  # Arabic, Thai
    "cp866": "CP866", "cp850": "CP850",  # DOS
    "mac_roman": "MACINTOSH", "mac_cyrillic": "MACCYRILLIC",  # old Macs
}  # fmt: skip
BYTE_ORDER_MARKS = {  # at the start of a file; the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


# decode


def open_decoded(
    file: ByteFile, encoding: str | None, newline: str | None = None
) -> io.TextIOWrapper:
    """A file as a text stream without a byte order mark; `encoding` None: UTF-8, `newline` as in `open`.

    Raises NotebookError if the first bytes show that the file is not text of this encoding.
    """
    marked = marked_encoding(file.head)
    if encoding is None and marked:
        raise NotebookError(
            f"{file.name} is {marked.upper()} text, not UTF-8; {advice_for(file, marked)}"
        )
    if encoding is None and is_binary(file.head):
        raise NotebookError(f"{file.name} is a binary file, not text; pass a text file")
    name = codecs.lookup(encoding or "utf-8").name
    if not name.startswith("utf") and is_utf8(file.head) and not file.head.isascii():
        raise NotebookError(
            f"{file.name} is UTF-8 text, and encoding={encoding!r} would garble it: leave encoding at "
            "None, and convert files of other encodings"
        )
    if name == "utf-8":
        name = "utf-8-sig"
    elif marked and name.startswith(marked):
        name = marked  # "utf-16-le" would keep the mark
    return io.TextIOWrapper(file.stream, encoding=name, newline=newline)


@contextlib.contextmanager
def decoding_errors_reported(file: ByteFile, encoding: str | None) -> Iterator[None]:
    """Context manager that turns the errors of a file that cannot be decoded into a NotebookError."""
    try:
        with damage_reported(file.name):
            yield
    except UnicodeError as error:
        raise decoding_error(file, encoding, error) from None


def decoded_lines(
    file: ByteFile, encoding: str | None = None, newline: str | None = None
) -> Iterator[str]:
    """Yield the lines of a file with their line ends; see `open_decoded`.

    Raises NotebookError if the file is not text of this encoding or cannot be decompressed.
    """
    num_lines = 0
    with decoding_errors_reported(file, encoding):
        stream = open_decoded(file, encoding, newline)
        while lines := stream.readlines(LINES_CHARS):
            if "\0" in "".join(lines):
                number = next(i for i, line in enumerate(lines, num_lines + 1) if "\0" in line)
                raise NotebookError(
                    f"{file.name}: line {number} contains a NUL byte, so this is not a text file; "
                    "pass a text file"
                )
            num_lines += len(lines)
            yield from lines


def decoded_head(file: ByteFile, encoding: str | None) -> str:
    """The first characters of a file; bytes that are not of this encoding are replaced."""
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")("replace")
    try:
        return decoder.decode(file.head).removeprefix("\ufeff")
    except UnicodeError:  # UTF-16 without a byte order mark: its lines raise the error
        return ""


def marked_encoding(head: bytes) -> str | None:
    """The encoding of a file that begins like this, if it is UTF-16, UTF-32 or ISO-2022-JP; else None."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    if JAPANESE_MARK.search(head):
        return "iso-2022-jp"
    # In UTF-16, every second byte of most scripts is below 32, without line ends. Chinese, Japanese and Korean
    # text has other ones, but is never valid UTF-8.
    num_low = len(head) - len(head.translate(None, LOW_BYTES))
    if 0 not in head or len(head) % 2 or (is_utf8(head) and 4 * num_low < len(head)):
        return None
    for encoding in ("utf-16le", "utf-16be"):  # without a mark
        text = head[: len(head) // 2 * 2].decode(encoding, "replace")
        if ("\n" in text or " " in text) and not NOT_TEXT.search(text):
            return encoding
    return None


def is_utf8(head: bytes) -> bool:
    """Whether the first bytes of a file are valid UTF-8. They may end inside a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return True
    except UnicodeDecodeError:
        return False


# describe what cannot be decoded

LOW_BYTES = bytes({*range(32)} - {*b"\r\n"})
NOT_ASCII = re.compile(rb"[\x80-\xff]+")
JAPANESE_MARK = re.compile(rb"\x1b\$[@B]")  # begins Japanese characters in ISO-2022-JP
NOT_TEXT = re.compile(  # control characters, the replacement character, some that are not assigned
    r"[\0-\x08\x0e-\x19\x1c-\x1f\x7f-\x9f\u0a00\ufff0-\uffff]"
)


@dataclass
class UndecodedLines:
    """The lines of a file that are not valid in an encoding. Offsets are counted in bytes from 0."""

    num_lines: int = 0
    num_invalid: int = 0
    num_valid_non_ascii: int = 0
    first_line: int = 0  # the first invalid one, counted from 1
    first_offset: int = 0
    first_byte: int = 0
    is_cut: bool = False  # the only invalid line is the last, which ends inside a character
    is_complete: bool = True  # all lines were examined, not only about MAX_SCANNED bytes
    sample: bytes = b""  # the first invalid lines


def find_undecoded_lines(stream: BinaryIO, encoding: str) -> UndecodedLines:
    """Examine MAX_SCANNED bytes of a stream whose line ends are single bytes, or all until an invalid line."""
    found, offset = UndecodedLines(), 0
    for text in io.TextIOWrapper(stream, encoding="latin-1", newline=""):  # ends LF, CR or CRLF
        line = text.encode("latin-1")
        found.num_lines += 1
        if not line.isascii():
            try:
                line.decode(encoding)
                found.num_valid_non_ascii += 1
            except UnicodeDecodeError as error:
                if not found.num_invalid:
                    found.first_line = found.num_lines
                    found.first_offset = offset + error.start
                    found.first_byte = line[error.start]
                found.is_cut = not found.num_invalid and error.end == len(line)
                found.num_invalid += 1
                if len(found.sample) < SAMPLE_BYTES:
                    found.sample += line[:SAMPLE_BYTES]
        offset += len(line)
        if offset > MAX_SCANNED and found.num_invalid:  # the first one may come later
            found.is_complete, found.is_cut = False, False
            break
    return found


def decoding_error(file: ByteFile, encoding: str | None, error: UnicodeError) -> NotebookError:
    """The error for a file that cannot be decoded: where, how many lines, and what to do."""
    found = UndecodedLines()
    if encoding is None or b"\n".decode(encoding, "ignore") == "\n":  # line ends are single bytes
        with file.reopen() as stream:
            found = find_undecoded_lines(stream, encoding or "utf-8")
    if not found.num_invalid:  # not examined, or each line is valid, but not one after the other
        default = ", or None for UTF-8" if encoding else ""
        return NotebookError(
            f"{file.name} is not {encoding or 'UTF-8'} text ({error}); pass another encoding{default}"
        )
    where = (
        f"line {found.first_line:,}, byte offset {found.first_offset:,} ({found.first_byte:#04x})"
    )
    of_lines = f"{found.num_lines:,}" if found.is_complete else f"the first {found.num_lines:,}"
    affected = f"{found.num_invalid:,} of {of_lines} lines"
    if encoding is not None:
        return NotebookError(
            f"{file.name} is not {encoding} text: {where}, {affected}; pass another encoding, or None "
            "for UTF-8"
        )
    if found.is_cut and found.num_valid_non_ascii:
        return NotebookError(
            f"{file.name} ends inside a character: {where}, {affected}; it was cut off: pass a "
            f"complete copy{conversion(file, 'cut it', f'head -c {found.first_offset}')}"
        )
    # Lines of other encodings are hardly ever valid UTF-8 by chance, unless they are ASCII.
    if found.num_valid_non_ascii >= max(1, 10 * (found.num_invalid - 1)):
        return NotebookError(
            f"{file.name} is UTF-8 text with damaged bytes: {where}, {affected}; correct them"
            f"{conversion(file, 'drop them', DROP_INVALID)}"
        )
    likely = likely_encodings(file, found.sample)
    suggestion = "; ".join(f"{name} ({sample})" for name, sample in likely.items())
    if found.num_valid_non_ascii > found.num_invalid // 10:
        return NotebookError(
            f"{file.name} mixes UTF-8 with another encoding: {where}, {affected}"
            + (f"; likely encodings of these: {suggestion}" if suggestion else "")
            + "; convert all parts to UTF-8 before you join them"
        )
    places = NOT_ASCII.findall(found.sample)
    num_places = max(len(places), sum(map(len, places)) / 3)  # several in a line are letters
    if found.num_invalid <= max(1, found.num_lines // 1000) and num_places <= found.num_invalid:
        letters = f"; if it is a letter, likely encodings: {suggestion}" if suggestion else ""
        letters += f"; {advice_for(file, next(iter(likely)))}" if likely else ""
        return NotebookError(
            f"{file.name} is not UTF-8 text: {where}, {affected}; if this byte is damaged, correct it"
            f"{conversion(file, 'drop it', DROP_INVALID)}{letters}"
        )
    if not likely:
        return NotebookError(
            f"{file.name} is not UTF-8 text: {where}, {affected}, and no likely encoding was found; "
            "pass a text file, or its encoding as encoding="
        )
    return NotebookError(
        f"{file.name} is not UTF-8 text: {where}, {affected}; likely encodings: {suggestion}; "
        f"{advice_for(file, next(iter(likely)))}"
    )


DROP_INVALID = "iconv -c -f UTF-8 -t UTF-8"


def conversion(file: ByteFile, words: str, command: str) -> str:
    """ ", or", words and a command that writes a better copy of a file; nothing for one in an archive."""
    if not file.is_plain:
        return ""
    copy = f"{file.source.stem}.utf8{file.source.suffix}"  # in the current folder
    return f", or {words}: {command} {shlex.quote(str(file.source))} > {shlex.quote(copy)}"


def advice_for(file: ByteFile, encoding: str) -> str:
    """What to do with a file in this encoding."""
    name = LIKELY_ENCODINGS.get(encoding, encoding.upper())
    converted = conversion(file, "convert it", f"iconv -f {name} -t UTF-8")
    return f'pass encoding="{encoding}" (for all text files){converted}'


# likely encodings


def plausibility(sample: bytes, encoding: str) -> tuple[float, float]:
    """(oddness, coherence) of bytes as text of an encoding, each from about 0 to 1.

    They are measured by charset-normalizer (https://charset-normalizer.readthedocs.io), and oddness also
    by `odd_fraction`.
    """
    from charset_normalizer import from_bytes

    try:
        sample.decode(encoding)
    except UnicodeDecodeError as error:
        if error.end == len(sample) >= DOUBT_BYTES:  # it was cut, perhaps inside a character
            sample = sample[: error.start]
    match = from_bytes(sample, cp_isolation=[encoding], threshold=1.0).best()
    chaos, coherence = (match.chaos, match.coherence) if match else (1.0, 0.0)
    return chaos + odd_fraction(sample.decode(encoding, "replace")), coherence


def likely_encodings(file: ByteFile, sample: bytes) -> dict[str, str]:
    """Up to three {encoding: a line of the sample, decoded} in which a file is plausible text.

    The sample must look like words, and the file must decode without errors.
    """
    scores = {encoding: plausibility(sample, encoding) for encoding in LIKELY_ENCODINGS}
    plausible = (encoding for encoding in scores if scores[encoding][0] <= MAX_ODDNESS)
    likely: dict[str, str] = {}
    for encoding in sorted(plausible, key=lambda name: (scores[name][0], -scores[name][1])):
        text = sample.decode(encoding, "replace")
        if len(likely) < 3 and text not in likely.values() and decodes(file, encoding):
            likely[encoding] = text
    return {name: short_repr(non_ascii_part(text), 40) for name, text in likely.items()}


def doubt_encoding(file: ByteFile, encoding: str) -> str | None:
    """A warning if a file is much more plausible in another encoding than in the given one, else None."""
    if codecs.lookup(encoding).name.startswith("utf"):
        return None
    lines = file.head[:DOUBT_BYTES].split(b"\n")
    sample = b"\n".join(line for line in lines[: len(lines) - 1 or 1] if not line.isascii())
    likely = next(iter(likely_encodings(file, sample)), None) if sample else None
    given_text = sample.decode(encoding, "replace")
    if likely is None or sample.decode(likely, "replace") == given_text:
        return None
    oddness, coherence = plausibility(sample, encoding)
    likely_oddness, likely_coherence = plausibility(sample, likely)
    is_less_coherent = coherence + COHERENCE_STEP < likely_coherence
    if oddness <= MAX_ODDNESS and not (is_less_coherent and likely_oddness <= oddness):
        return None
    given, other = (
        short_repr(non_ascii_part(text), 40)
        for text in (given_text, sample.decode(likely, "replace"))
    )
    return (
        f"{file.name}: encoding={encoding!r} gives {given}; if that is garbled, "
        f"pass encoding={likely!r}, which gives {other}"
    )


def odd_fraction(text: str) -> float:
    """How many signs of a wrong encoding a text has for each of its letters that are not ASCII.

    Such signs are symbols, a capital after a small letter, and a Latin letter next to another script.
    """
    others = [letter for letter in text if not letter.isascii()]
    symbols = sum(c == "¤" or unicodedata.category(c) in ODD_CATEGORIES for c in others)
    pairs = [(a, b) for a, b in pairwise(text) if not (a.isascii() and b.isascii())]
    flips = sum(a.islower() and b.isupper() for a, b in pairs)
    mixed = sum("LATIN" in (script(a), script(b)) and script(a) != script(b) for a, b in pairs
                if a.isalpha() and b.isalpha())  # fmt: skip
    return (symbols + flips + mixed) / max(1, len(others))


@lru_cache(None)
def script(letter: str) -> str:
    """The script of a letter, as the first word of its Unicode name."""
    return unicodedata.name(letter, "").partition(" ")[0]


def decodes(file: ByteFile, encoding: str) -> bool:
    """Whether up to MAX_SCANNED bytes of a file are text of this encoding, without control characters."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with file.reopen() as stream:
        for _ in range(0, MAX_SCANNED, 2**20):
            try:
                block = stream.read(2**20)
                if NOT_TEXT.search(decoder.decode(block)):
                    return False
            except UnicodeDecodeError:
                return False
            if not block:
                break
    return True


def non_ascii_part(text: str) -> str:
    """The words around the first letter that is not ASCII."""
    position = next((i for i, letter in enumerate(text) if not letter.isascii()), 0)
    line = text[max(0, position - 12) : position + 18]
    return " ".join(line.split())
