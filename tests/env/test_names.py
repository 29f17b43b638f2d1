"""Texts and models are named without passwords, tokens and folders of this machine."""

import pytest

from mlm.env.files import short_repr
from mlm.env.names import public_name, stored_model, without_paths
from mlm.env.secrets import hide_secrets, shown_value, without_secrets

URLS = {  # a URL with a secret: without it
    "https://user:S3CR3T@host.org/a/b.txt": "https://host.org/a/b.txt",
    "https://S3CR3T@host.org/a.txt": "https://host.org/a.txt",
    "HTTPS://user:S3CR3T@host.org:8080/a.txt": "HTTPS://host.org:8080/a.txt",
    "https://user:p@S3CR3T@host.org/a.txt": "https://host.org/a.txt",
    "https://user:p/S3CR3T@host.org/a.txt": "https://host.org/a.txt",
    "https://user:p?S3CR3T@host.org/a.txt": "https://host.org/a.txt",
    "https://user:p#S3CR3T@host.org/a.txt": "https://host.org/a.txt",
    "https://host.org/a.txt?token=S3CR3T": "https://host.org/a.txt",
    "https://host.org/a.txt?S3CR3T": "https://host.org/a.txt",
    "https://host.org/a.txt?mail=a@b&x=S3CR3T'\")": "https://host.org/a.txt",
    "https://host.org/a.txt#S3CR3T": "https://host.org/a.txt",
    "https://host.org/a.txt;sid=S3CR3T": "https://host.org/a.txt",
    "s3://KEY:S3CR3T@bucket/a.txt": "s3://bucket/a.txt",
    "ftp://user:S3CR3T@[::1]:21/a.txt": "ftp://[::1]:21/a.txt",
}
HARMLESS = [
    "https://host.org/a/b.txt",
    "https://host.org:8080/@user/b.txt",
    "http://[::1]:80/a.txt",
    "hf://datasets/you/name@main/data-?.parquet",
    "hf:you/name:train",
    "pydoc",
    "nietzsche",
    "größe 5 %.txt",
    "a: b #c.txt",
]


@pytest.mark.parametrize("url, expected", URLS.items())
def test_a_secret_in_a_url_is_removed(url, expected):
    assert public_name(url) == without_secrets(url) == shown_value(url) == expected
    assert "S3CR3T" not in short_repr(url) + short_repr([url, "pydoc"])


@pytest.mark.parametrize("url", [url for url in URLS if "'" not in url and "#" not in url])
def test_a_secret_in_a_message_is_removed(url):
    """Whole URLs; the path alone, as urllib3 names it; and the parts of the URL alone."""
    path = "/" + url.split("/", 3)[3]
    message = f"404 for url: {url} (path {path}; /cwd/{url.replace('//', '/')})"
    assert "S3CR3T" not in hide_secrets(message, url)
    assert "404 for url: " in hide_secrets(message, url)
    redirected = "403 for https://other.org/x?X-Amz-Signature=S3CR3T> at /x?sig=S3CR3T"
    assert "S3CR3T" not in hide_secrets(redirected, url)


@pytest.mark.parametrize("name", HARMLESS)
def test_names_and_urls_without_secrets_stay_as_they_are(name):
    assert public_name(name) == shown_value(name) == hide_secrets(name) == name


@pytest.mark.parametrize(
    "path",
    [
        "/home/me/clients/acme/diary.txt",
        "~/clients/acme/diary.txt",
        "~me/diary.txt",
        "../acme/diary.txt",
        "acme/diary.txt",
        "file:///home/me/diary.txt",
        "FILE:/home/me/diary.txt",
        "file:///home/m%65/diary.txt",
        r"C:\Users\me\diary.txt",
        "C:/Users/me/diary.txt",
        r"\\server\me\diary.txt",
        "/home/me/diary.txt/",
    ],
)
def test_a_path_is_named_by_its_last_part(path):
    assert public_name(path) == "diary.txt"


def test_a_folder_that_names_the_user_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/mary")
    monkeypatch.chdir(tmp_path)
    for path in ("/home/mary", "~", "~mary", "/data/mary/", "file:///home/mary", "./", "..", "/"):
        assert public_name(path) == "a local folder", path
    assert public_name(str(tmp_path)) == "a local folder"


def test_the_stored_name_of_a_model_tells_folders_apart_without_their_paths(tmp_path, monkeypatch):
    folders = [tmp_path / name / "mine" for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    first, second = map(stored_model, map(str, folders))
    assert first != second and {public_name(first), public_name(second)} == {"mine"}
    monkeypatch.chdir(tmp_path)
    assert stored_model("a/mine") == stored_model("./a/mine") == first == stored_model(first)
    for name in ("bert-base-uncased", "you/name", "scratch:tiny"):
        assert stored_model(name) == name


def test_entries_that_are_paths_are_removed_from_a_config():
    config = {"model_type": "bert", "sep_token": "</s>", "slash": "/", "and": "and/or", "n": 1}
    paths = {
        "_name_or_path": "/home/me/x",
        "a": "~/x",
        "b": r"C:\x",
        "c": "file:///x",
        "d": "~me/x",
    }
    assert without_paths(config | paths | {"e": [paths]}) == config | {"e": [{}]}
