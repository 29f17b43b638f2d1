"""Texts in other encodings: read if their encoding is given, else refused with the right advice."""

import gzip
import random
import re
import shutil
import subprocess

import pytest

from helpers import refused
from mlm.data.archives import HEAD_BYTES
from mlm.data.corpus import load_corpus
from mlm.data.encodings import LIKELY_ENCODINGS, marked_encoding
from mlm.data.formats import doubted_encodings
from mlm.env.notebook import error_message
from texts import all_lines, as_csv, as_tar, as_text, put

LANGUAGES = {  # encoding: sentences
    "gb18030": "今天天气很好我们去公园散步 他在图书馆读一本新书 火车晚点了半个小时 这家餐厅的面条味道不错",
    "big5": "今天天氣很好我們去公園散步 他在圖書館讀一本新書 火車晚點了半個小時 這家餐廳的麵條味道不錯",
    "cp932": "今日はいい天気ですね。 図書館で本を読んでいました。 電車が三十分遅れました。",
    "euc_jp": "今日はいい天気ですね。 図書館で本を読んでいました。 電車が三十分遅れました。",
    "cp949": "오늘은 날씨가 아주 좋습니다. 그는 도서관에서 책을 읽었다. 기차가 삼십 분 늦었다.",
    "cp1252": "Le café près de la forêt était fermé. Größe und Übermut führen zu Ärger. El niño comió piñas.",
    "iso8859_15": "Le café coûte 20 € à Nîmes. L'œuvre était près de la forêt. Il a déjà mangé.",
    "cp1251": "Сегодня хорошая погода, мы идём в парк. Он читал новую книгу. Поезд опоздал на полчаса.",
    "koi8_r": "Сегодня хорошая погода, мы идём в парк. Он читал новую книгу. Поезд опоздал на полчаса.",
    "iso8859_5": "Сегодня хорошая погода, мы идём в парк. Он читал новую книгу. Поезд опоздал на полчаса.",
    "mac_cyrillic": "Сегодня хорошая погода, мы идём в парк. Он читал новую книгу. Поезд опоздал на полчаса.",
    "cp866": "Сегодня хорошая погода, мы идём в парк. Он читал новую книгу. Поезд опоздал на полчаса.",
    "cp1250": "Zażółć gęślą jaźń, proszę państwa. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "iso8859_2": "Zażółć gęślą jaźń, proszę państwa. Wczoraj poszedł na pocztę i wysłał list do żony.",
    "cp1253": "Σήμερα ο καιρός είναι καλός και πάμε στο πάρκο. Διάβαζε ένα νέο βιβλίο.",
    "cp1254": "Bugün hava çok güzel, parka gidiyoruz. Kütüphanede yeni bir kitap okuyordu, ağaç ışık.",
    "cp1255": "היום מזג האוויר יפה ואנחנו הולכים לפארק. הוא קרא ספר חדש בספרייה.",
    "cp1256": "الطقس جميل اليوم ونحن ذاهبون إلى الحديقة. كان يقرأ كتابا جديدا في المكتبة.",
    "cp874": "วันนี้อากาศดีมากเราไปเดินเล่นที่สวน เขาอ่านหนังสือเล่มใหม่ในห้องสมุด",
    "mac_roman": "Le café près de la forêt était fermé. Größe und Übermut führen zu Ärger.",
    "cp850": "Le café près de la forêt était fermé. Größe und Übermut führen zu Ärger.",
}


def lines_of(encoding, count=100):
    """Lines in a language that is written in this encoding, all different."""
    generator, words = random.Random(0), LANGUAGES[encoding].split()
    return [f"{i} {' '.join(generator.choices(words, k=8))}" for i in range(count)]


@pytest.mark.fault
@pytest.mark.parametrize("encoding", LANGUAGES)
def test_the_encoding_is_found_and_the_command_converts_the_file(tmp_path, monkeypatch, encoding):
    lines = lines_of(encoding)
    given = put(tmp_path / "my text.txt", as_text(lines).decode().encode(encoding))
    message = error_message(load_corpus, given, tmp_path / "work")
    start = next(i for i, byte in enumerate(lines[0].encode(encoding)) if byte > 127)
    assert f"my text.txt is not UTF-8 text: line 1, byte offset {start} (0x" in message
    assert "100 of 100 lines; likely encodings: " in message and len(message) < 700
    suggested = re.search(r'pass encoding="(\w+)"', message)[1]
    folder = load_corpus(given, tmp_path / "work", encoding=suggested)
    assert all_lines(folder) == sorted(lines)
    command = re.search(r"convert it: (iconv .*)$", message)[1]
    if shutil.which("iconv"):
        monkeypatch.chdir(tmp_path)
        subprocess.run(command, shell=True, check=True)
        assert (tmp_path / "my text.utf8.txt").read_text("utf-8").split("\n") == lines


def test_every_likely_encoding_is_tested():
    assert {*LANGUAGES} == {*LIKELY_ENCODINGS}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8"])
@pytest.mark.parametrize("language", ["cp1252", "cp1251", "gb18030"])
def test_unicode_encodings_are_read_if_given_and_named_if_not(tmp_path, encoding, language):
    lines = lines_of(language)
    given = put(tmp_path / "a.txt", as_text(lines).decode().encode(encoding))
    assert all_lines(load_corpus(given, tmp_path / "work", encoding=encoding)) == sorted(lines)
    if encoding != "utf-8":
        name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
        with refused(
            f"is {name} text, not UTF-8", f'"{name.lower()}"', f"iconv -f {name} -t UTF-8"
        ):
            load_corpus(given, tmp_path / "work")


SAMPLES = {
    "English": "The quick brown fox", "Russian": "Съешь ещё этих", "Hindi": "घर में बैठा है", "Thai": "แม่ ไป ตลาด",
    "Greek": "Ξεσκεπάζω την", "Chinese": "今天天气 很好我们去公园散步", "Japanese": "いろはにほへと ちりぬるを",
    "Korean": "다람쥐 헌 쳇바퀴에",
}  # fmt: skip


@pytest.mark.parametrize("language", SAMPLES)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_recognized_for_any_script(language, encoding):
    for num_lines in (1, 3000):
        content = f"{SAMPLES[language]}\n".encode(encoding) * num_lines
        assert marked_encoding(content[:HEAD_BYTES]) == encoding.replace("16-", "16")


@pytest.mark.parametrize("language", SAMPLES)
@pytest.mark.parametrize("damage", ["\0", "\n\0", "\n\0\0", "\0\n\0", " \0"])
def test_a_utf_8_file_with_nul_bytes_is_no_utf_16(language, damage):
    for text in (SAMPLES[language], "text", "texts\n"):
        assert marked_encoding(f"{text}{damage}".encode()) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32-le"])
def test_a_byte_order_mark_is_no_text(tmp_path, encoding):
    lines = lines_of("cp1252")
    text = as_csv(lines).decode()
    content = (text if encoding == "utf-16" else f"\ufeff{text}").encode(encoding)
    folder = load_corpus(put(tmp_path / "a.csv", content), tmp_path, encoding=encoding)
    assert {*all_lines(folder)} - {""} == {*lines}


@pytest.mark.fault
def test_japanese_mail_is_named_for_its_encoding(tmp_path):
    """ISO-2022-JP consists of ASCII characters, so it is valid UTF-8."""
    lines = lines_of("cp932")
    given = put(tmp_path / "a.txt", as_text(lines).decode().encode("iso2022_jp"))
    with refused("is ISO-2022-JP text, not UTF-8", "iconv -f ISO-2022-JP"):
        load_corpus(given, tmp_path / "work")
    assert all_lines(load_corpus(given, tmp_path, encoding="iso-2022-jp")) == sorted(lines)


@pytest.mark.parametrize("form", ["csv", "txt.gz", "tar", "jsonl"])
def test_an_encoding_is_used_for_every_format(tmp_path, form):
    lines = lines_of("cp1251")
    content = {
        "csv": as_csv(lines).decode().encode("cp1251"),
        "txt.gz": gzip.compress(as_text(lines).decode().encode("cp1251")),
        "tar": as_tar({"a.txt": as_text(lines).decode().encode("cp1251")}),
        "jsonl": "".join(f'{{"text": "{line}"}}\n' for line in lines).encode("cp1251"),
    }[form]
    given = put(tmp_path / f"a.{form}", content)
    folder = load_corpus(given, tmp_path / "work", encoding="cp1251")
    assert {*all_lines(folder)} - {""} == {*lines}
    with refused("not UTF-8 text", 'encoding="cp1251"') as message:
        load_corpus(given, tmp_path / "work")
    assert ("iconv" in message()) == (form in ("csv", "jsonl"))  # it reads no archives


@pytest.mark.fault
def test_a_wrong_encoding_is_refused(tmp_path):
    chinese = put(tmp_path / "a.txt", as_text(lines_of("gb18030")).decode().encode("gb18030"))
    with refused(
        "a.txt is not big5 text: line ", "byte offset", "of 100 lines", "another encoding"
    ):
        load_corpus(chinese, tmp_path / "work", encoding="big5")
    with refused("a.txt is not utf-16 text"):
        load_corpus(chinese, tmp_path / "work", encoding="utf-16")
    with refused("a.txt is not ascii text: line 1, byte offset 2 (0x"):
        load_corpus(chinese, tmp_path / "work", encoding="ascii")
    french = put(tmp_path / "b.txt", as_text(lines_of("cp1252")))
    with refused("b.txt is UTF-8 text, and encoding='cp1252' would garble it"):
        load_corpus(french, tmp_path / "work", encoding="cp1252")


# damaged bytes


@pytest.mark.fault
@pytest.mark.parametrize("damage", [b"\xff", b"\xc3", b"\x80", b"\xe9"])
def test_one_damaged_byte_in_a_good_file_is_reported_as_that(tmp_path, monkeypatch, damage):
    lines = lines_of("cp1252")
    content = as_text(lines)
    position = content.index(lines[60].encode()) + 4
    damaged = content[:position] + damage + content[position:]
    given = put(tmp_path / "a.txt", damaged)
    where = f"line 61, byte offset {position:,} ({damage[0]:#04x}), 1 of 100 lines"
    with refused(f"is UTF-8 text with damaged bytes: {where}", "correct them") as message:
        load_corpus(given, tmp_path / "work")
    if shutil.which("iconv"):
        monkeypatch.chdir(tmp_path)
        subprocess.run(message().partition("drop them: ")[2], shell=True)
        assert (tmp_path / "a.utf8.txt").read_bytes() == content


@pytest.mark.fault
def test_one_byte_in_ascii_text_may_be_damaged_or_a_letter(tmp_path):
    lines = [f"the {i}th line of an English text" for i in range(300)]
    given = put(tmp_path / "a.txt", as_text([*lines, "a café"]).decode().encode("cp1252"))
    words = (
        "line 301",
        "(0xe9), 1 of 301 lines",
        "if this byte is damaged, correct it",
        "iconv -c",
    )
    advice = 'pass encoding="cp1252"'
    with refused("is not UTF-8 text", *words, "if it is a letter", "cp1252 ('a café')", advice):
        load_corpus(given, tmp_path / "work")


@pytest.mark.fault
def test_a_damaged_byte_after_the_part_that_is_examined_has_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr("mlm.data.encodings.MAX_SCANNED", 1000)
    given = put(tmp_path / "a.txt", "grüne Wälder\n".encode() * 200 + b"caf\xe9\n")
    with refused("UTF-8 text with damaged bytes: line 201,"):
        load_corpus(given, tmp_path / "work")


@pytest.mark.fault
@pytest.mark.parametrize("start", ["", "a"])  # with it, the sample ends inside a character
def test_a_long_line_of_letters_is_not_damage(tmp_path, start):
    text = (start + LANGUAGES["gb18030"] * 800).encode("gb18030")
    given = put(tmp_path / "a.txt", text)
    with refused("is not UTF-8 text", 'encoding="gb18030"') as message:
        load_corpus(given, tmp_path / "work")
    assert "damaged" not in message()
    (warning,) = doubted_encodings([tmp_path / "a.txt"], "cp1252")
    assert "encoding='gb18030', which gives" in warning


@pytest.mark.fault
def test_several_letters_of_a_single_line_are_not_damage(tmp_path):
    given = put(tmp_path / "a.txt", "ein Café über der Straße".encode("cp1252"))
    with refused("is not UTF-8 text", "1 of 1 lines; likely encodings: cp1252") as message:
        load_corpus(given, tmp_path / "work")
    assert "damaged" not in message()


def test_the_encoding_of_other_texts_does_not_matter_to_texts_that_have_names(tmp_path):
    given = put(tmp_path / "a.txt", as_text(lines_of("cp1252")).decode().encode("cp1252"))
    named = load_corpus("pydoc", tmp_path / "work", encoding="cp1252")
    assert named == load_corpus("pydoc", tmp_path / "work")
    load_corpus(given, tmp_path / "work", encoding="cp1252", parameter="general")


@pytest.mark.fault
def test_a_file_that_was_cut_inside_a_character_is_reported_as_that(tmp_path):
    content = as_text(lines_of("cp1252")).rsplit("é".encode(), 1)[0] + "é".encode()[:1]
    given = put(tmp_path / "a.txt", content)
    num_lines = len(content.splitlines())
    where = f"line {num_lines}, byte offset {len(content) - 1:,} (0xc3)"
    with refused("a.txt ends inside a character", where, "it was cut off: pass a complete copy"):
        load_corpus(given, tmp_path / "work")
    command = re.search(
        r"cut it: (head .*)$", error_message(load_corpus, given, tmp_path / "work")
    )[1]
    if shutil.which("head"):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        assert (tmp_path / "a.utf8.txt").read_bytes() == content[:-1]


@pytest.mark.fault
def test_a_file_of_two_encodings_is_reported_as_that(tmp_path):
    lines = as_text(lines_of("cp1252", 60)).decode()
    given = put(tmp_path / "a.txt", f"{lines}\n".encode() + lines.encode("cp1252"))
    with refused("a.txt mixes UTF-8 with another encoding", "60 of 120 lines", "cp1252"):
        load_corpus(given, tmp_path / "work")


@pytest.mark.fault
def test_positions_count_every_kind_of_line_end(tmp_path):
    lines = lines_of("koi8_r")
    for end in ("\n", "\r\n", "\r"):
        content = (end.join(["ascii", "ascii", *lines])).encode("koi8_r")
        given = put(tmp_path / "a.txt", content)
        offset = 2 * len(f"ascii{end}") + 2
        with refused(f"line 3, byte offset {offset} (", "100 of 102 lines", 'encoding="koi8_r"'):
            load_corpus(given, tmp_path / "work")


@pytest.mark.fault
def test_random_bytes_have_no_likely_encoding(tmp_path):
    generator = random.Random(0)
    noise = bytes(generator.choice(range(128, 256)) for _ in range(4000))
    with refused("a.txt is not UTF-8 text", "no likely encoding was found"):
        load_corpus(put(tmp_path / "a.txt", b"\n".join([noise] * 20)), tmp_path / "work")


# a given encoding that is wrong


@pytest.mark.parametrize("encoding", LANGUAGES)
def test_the_right_encoding_is_not_doubted_and_most_wrong_ones_are(tmp_path, encoding):
    """Wrong: another encoding that can decode the file, to another text."""
    text = "\n".join(f"{i} {LANGUAGES[encoding]}" for i in range(40))
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert doubted_encodings([path], encoding) == doubted_encodings([path], None) == []
    wrong = []
    for other in ["latin-1", *LIKELY_ENCODINGS]:
        try:
            if path.read_bytes().decode(other) != text:
                wrong.append(other)
        except UnicodeDecodeError:
            continue
    doubted = {other: doubted_encodings([path], other) for other in wrong}
    assert sum(map(bool, doubted.values())) >= 0.6 * len(wrong)
    for other, warnings in doubted.items():
        for warning in warnings:
            assert f"encoding={other!r} gives" in warning and "if that is garbled" in warning


def test_a_doubtful_encoding_is_reported_when_a_corpus_is_loaded(tmp_path, capsys):
    text = "\n".join(f"{i} {LANGUAGES['koi8_r']}" for i in range(40))
    (tmp_path / "a.txt").write_bytes(text.encode("koi8_r"))
    for _ in range(2):  # the second time, the split exists
        load_corpus(str(tmp_path / "a.txt"), tmp_path / "work", encoding="latin-1")
        printed = capsys.readouterr().out
        assert "encoding='latin-1' gives" in printed and "encoding='koi8_r', which gives" in printed
    load_corpus(str(tmp_path / "a.txt"), tmp_path / "work", encoding="koi8-r")
    assert "garbled" not in capsys.readouterr().out


def test_utf_16_and_ascii_are_not_doubted(tmp_path):
    (tmp_path / "a.txt").write_bytes("été\n".encode("utf-16"))
    (tmp_path / "b.txt").write_bytes(b"plain\n")
    assert doubted_encodings([tmp_path / "a.txt"], "utf-16") == []
    assert doubted_encodings([tmp_path / "b.txt", tmp_path / "b.txt"], "cp1251") == []
