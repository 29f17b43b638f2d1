"""Files that are not text: what they are, by their first bytes."""

import re

DECOMPRESS = "decompress it first and pass the files inside"
EXPORT = "export it as plain text (UTF-8) and pass that file"
EXPORT_TABLE = "export the table as CSV, JSON lines or parquet and pass that file"
EXTRACT = "extract its text first and pass that"
NO_TEXT = "pass a text file"

# Regular expression for the first bytes: (what the file is, what to do).
FILE_TYPES = {
    rb"\x28\xb5\x2f\xfd": ("a zstd archive", DECOMPRESS),
    rb"\x04\x22\x4d\x18": ("an lz4 archive", DECOMPRESS),
    rb"7z\xbc\xaf": ("a 7z archive", DECOMPRESS),
    rb"PK\x05\x06": ("an empty zip archive", NO_TEXT),
    rb"\0{512}": ("an empty tar archive, or a damaged file of zeros", "pass another copy of it"),
    rb"Rar!\x1a\x07": ("a RAR archive", DECOMPRESS),
    rb"!<arch>\n": ("an ar archive (such as .deb or .a)", DECOMPRESS),
    rb"\xd0\xcf\x11\xe0": ("an old Office document", EXPORT),
    rb"\{\\rtf": ("an RTF document", EXPORT),
    rb"%PDF": ("a PDF", EXPORT),
    rb"%!PS": ("a PostScript document", EXPORT),
    rb"AT&TFORM": ("a DjVu document", EXPORT),
    rb".{60}BOOKMOBI": ("a MOBI e-book", EXPORT),
    rb"SQLite format 3\0": ("an SQLite database", EXPORT_TABLE),
    rb"ORC[\x00-\x08]": ("an ORC file", EXPORT_TABLE),
    rb"Obj\x01": ("an Avro file", EXPORT_TABLE),
    rb"FEA1": ("an old Feather file", EXPORT_TABLE),
    rb"\x89HDF\r\n": ("an HDF5 file", EXPORT_TABLE),
    rb"\x93NUMPY": ("a NumPy array (.npy)", NO_TEXT),
    rb"\x80[\x02-\x05]": ("a pickle (such as an old PyTorch checkpoint)", NO_TEXT),
    rb"GGUF[\x01-\x09]\0": ("a GGUF model", NO_TEXT),
    rb".{4}\0{4}\{\"": ("a safetensors model", NO_TEXT),
    rb"\x89PNG": ("a PNG image", NO_TEXT),
    rb"\xff\xd8\xff": ("a JPEG image", NO_TEXT),
    rb"GIF8[79]a": ("a GIF image", NO_TEXT),
    rb"II\*\0|MM\0\*": ("a TIFF image", NO_TEXT),
    rb"BM.{4}\0{4}": ("a BMP image", NO_TEXT),
    rb"RIFF.{4}WEBP": ("a WebP image", NO_TEXT),
    rb"RIFF.{4}WAVE": ("a WAV file", NO_TEXT),
    rb"RIFF.{4}AVI ": ("an AVI video", NO_TEXT),
    rb"ID3[\x02-\x04]": ("an MP3 file", NO_TEXT),
    rb"OggS\0": ("an Ogg file", NO_TEXT),
    rb"fLaC\0": ("a FLAC file", NO_TEXT),
    rb".{4}ftyp": ("an MP4 video or HEIC image", NO_TEXT),
    rb"\x1a\x45\xdf\xa3": ("a Matroska or WebM video", NO_TEXT),
    rb"\x7fELF": ("a program or library (ELF)", NO_TEXT),
    rb"MZ.{,62}\0\0": ("a Windows program", NO_TEXT),
    rb"\xca\xfe\xba\xbe|\xcf\xfa\xed\xfe": ("a Java class or a macOS program", NO_TEXT),
    rb"version https://git-lfs": ("a Git LFS pointer", "run `git lfs pull` to get the file itself"),
    rb"(?i:(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head>|<body))": ("an HTML page", EXTRACT),
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<mediawiki": (
        "a MediaWiki dump", "extract its text with WikiExtractor first and pass its output"
    ),
    rb"(\xef\xbb\xbf)?\s*<(\?xml|svg\b)": ("an XML file", EXTRACT),
}  # fmt: skip
CONTROL_BYTES = bytes({*range(32), 127} - {*b"\t\n\v\f\r\x1b"})
MAX_CONTROL_FRACTION = 0.05  # of the first bytes of a text


def recognize_type(head: bytes) -> tuple[str, str] | None:
    """(what a file is, what to do) if its first bytes show that it is a known type, not text."""
    found = (kind for pattern, kind in FILE_TYPES.items() if re.match(pattern, head, re.DOTALL))
    return next(found, None)


def is_binary(head: bytes) -> bool:
    """Whether a file has too many control bytes at its beginning to be a text, except in UTF-16."""
    num_others = len(head.translate(None, CONTROL_BYTES))
    return len(head) - num_others > MAX_CONTROL_FRACTION * len(head)
