"""Which host this is, and how a TPU host is prepared."""

import pytest

import mlm.env.host as host
from helpers import refused
from mlm.env.notebook import REQUIREMENTS


@pytest.mark.parametrize(
    "environ, files, expected",
    [
        ({}, [], ("neither Colab nor Kaggle", False)),
        ({"COLAB_RELEASE_TAG": "x", "COLAB_TPU_1VM": ""}, [], ("Colab", False)),
        ({"COLAB_RELEASE_TAG": "x", "COLAB_TPU_1VM": "1"}, [], ("Colab", True)),
        ({"COLAB_RELEASE_TAG": "x", "KAGGLE_KERNEL_RUN_TYPE": "Batch"}, [], ("Kaggle", False)),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-8"}, ["kaggle/input"], ("Kaggle", True)),
        ({}, ["dev/accel0"], ("a TPU VM", True)),
        ({}, ["dev/vfio/0"], ("a TPU VM", True)),
        ({}, ["dev/vfio/vfio", "dev/accel/accel0"], ("neither Colab nor Kaggle", False)),
    ],
)
def test_hosts_are_recognized(tmp_path, environ, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert host.find_host(environ, tmp_path) == expected


def test_every_required_package_is_listed_with_version_and_purpose():
    rows = {name: (version, required, use) for name, version, required, use in host.list_packages()}
    for requirement in REQUIREMENTS:
        (name,) = [name for name in rows if requirement.startswith((f"{name}>", f"{name}="))]
        assert requirement == name + rows[name][1] and rows[name][0]
    assert all(use for _, _, use in rows.values())
    assert rows["python"][1] == "3.10 to 3.14"


@pytest.fixture
def tpu_host(monkeypatch, tmp_path):
    """A TPU host with the packages in the dict that this returns; pip's requirements under "pip"."""
    packages = {"pip": []}
    monkeypatch.setattr(host, "find_host", lambda _: ("a TPU VM", True))
    monkeypatch.setattr(host, "installed_version", packages.get)
    monkeypatch.setattr(host, "pip_install", lambda *what: packages["pip"].extend(what))
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return packages


def test_elsewhere_nothing_is_prepared(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(host, "find_host", lambda _: ("Colab", False))
    host.prepare_tpu(tmp_path)
    assert "no TPU here" in capsys.readouterr().out


def test_matching_versions_are_kept(tpu_host, capsys):
    tpu_host |= {"torch": "2.8.1+cpu", "torch_xla": "2.8.0"}
    host.prepare_tpu()
    assert tpu_host["pip"] == [] and "kept" in capsys.readouterr().out


@pytest.mark.parametrize("torch, xla", [("2.11.0", "2.9.0"), ("2.7.1", "2.7.0"), (None, None)])
def test_other_versions_are_replaced_and_the_kernel_restarted(tpu_host, torch, xla, monkeypatch):
    tpu_host |= {"torch": torch, "torch_xla": xla}
    monkeypatch.setattr(host.sys, "version_info", (3, 12))
    with refused("torch was replaced: restart the kernel"):
        host.prepare_tpu()
    assert tpu_host["pip"] == ["torch==2.9.*", "torch_xla[tpu]==2.9.0"]


@pytest.mark.parametrize("libtpu, added", [(None, ["libtpu==0.0.21.1"]), ("0.0.30", [])])
def test_python_3_13_gets_a_libtpu_that_is_built_for_it(tpu_host, monkeypatch, libtpu, added):
    tpu_host["libtpu"] = libtpu
    monkeypatch.setattr(host.sys, "version_info", (3, 13))
    with refused("restart the kernel"):
        host.prepare_tpu()
    assert tpu_host["pip"] == ["torch==2.9.*", "torch_xla==2.9.0", *added]


@pytest.mark.fault
def test_a_python_without_torch_xla_is_refused_before_anything_is_installed(tpu_host, monkeypatch):
    monkeypatch.setattr(host.sys, "version_info", (3, 14))
    with refused("torch_xla", "needs Python 3.10 to 3.13, and this is 3.14: choose another kernel"):
        host.prepare_tpu()
    assert tpu_host["pip"] == []


def test_the_script_is_used_if_it_is_there(tpu_host, tmp_path, capsys):
    (tmp_path / "setup_tpu.sh").write_text("echo prepared with $PYTHON\n")
    host.prepare_tpu()
    assert "prepared with" in capsys.readouterr().out and tpu_host["pip"] == []
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "setup_tpu.sh").write_text("echo why >&2\nexit 1\n")
    with refused("why"):
        host.prepare_tpu(tmp_path / "notebooks")
