"""Files that appear whole or not at all; links, devices, pipes; checksums; what a kill leaves."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from hybridret._files import (
    atomic_file,
    atomic_folder,
    check_files,
    checksums,
    read_json,
    write_json,
    write_text,
)
from hybridret.errors import DataError


def test_a_link_is_followed(tmp_path):
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "link.json").symlink_to("target.json")
    write_json(tmp_path / "link.json", {"new": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "target.json").read_text()) == {"new": 1}
    (tmp_path / "dangling").symlink_to("folder/later")
    write_text(tmp_path / "dangling", "text")
    assert (tmp_path / "folder" / "later").read_text() == "text"
    (tmp_path / "real").mkdir()
    (tmp_path / "named").symlink_to("real")
    with atomic_folder(tmp_path / "named") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "named").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dangling",
        "folder",
        "link.json",
        "named",
        "real",
        "target.json",
    ]


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join()
    assert found == ["through"]
    assert pipe.is_fifo()


def test_a_device_is_written_to():
    write_text("/dev/null", "nothing")
    assert not os.path.isfile("/dev/null")
    with pytest.raises(OSError, match="No space left"):
        write_text("/dev/full", "nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_outside_of_dev_is_written_to(tmp_path):
    device = tmp_path / "null"
    os.mknod(device, 0o20666, os.makedev(1, 3))
    write_text(device, "nothing")
    assert device.is_char_device()


def test_redirected_standard_output_is_written_to(tmp_path):
    """``--json /dev/stdout > file`` keeps what is printed before and after."""
    code = (
        "from hybridret._files import write_text\n"
        "print('before', flush=True); write_text('/dev/stdout', 'json\\n'); print('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before\njson\nafter\n"
    log = tmp_path / "log"
    log.write_text("precious\n")
    for redirect, start in ((">>", "precious\n"), (">", "")):
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {redirect} {log}"
        subprocess.run(command, shell=True, check=True)
        assert log.read_text() == f"{start}before\njson\nafter\n"


def test_a_folder_is_not_overwritten_by_a_file(tmp_path):
    with pytest.raises(IsADirectoryError) as error:
        write_text(tmp_path, "text")
    assert error.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_new_files(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    (tmp_path / "ordinary").write_text("")
    with atomic_folder(tmp_path / "folder") as folder:
        safetensors.save_file({"a": torch.zeros(2)}, folder / "a.safetensors")
    expected = (tmp_path / "ordinary").stat().st_mode
    assert (tmp_path / "folder" / "a.safetensors").stat().st_mode == expected


KILLED = """
import os, signal, sys
from hybridret._files import atomic_file, atomic_folder
with (atomic_folder if sys.argv[1] == "folder" else atomic_file)(sys.argv[2]) as temporary:
    print(temporary, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_temporary_files_of_a_killed_run_are_removed_by_the_next(kind, tmp_path):
    target = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, kind, target], capture_output=True, text=True, check=False
    )
    assert os.path.exists(done.stdout.strip())
    mine = tmp_path / ".out.previous"  # a name of the user's, eight letters long
    mine.mkdir()
    writer = atomic_folder if kind == "folder" else atomic_file
    with writer(target) as first, writer(target) as second:  # two at work at the same time
        assert not os.path.exists(done.stdout.strip())
        assert first.exists()
        assert second.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.previous", "out"]


@pytest.mark.parametrize("exchange", ["exchange", "no exchange"])
def test_threads_that_write_the_same_path(exchange, tmp_path, monkeypatch):
    """None takes another's temporary for stale; what is there at the end is one of the texts.

    One of them removes the folder again and again.
    """
    if exchange != "exchange":  # as where the file system cannot
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())

    def write(number: int) -> None:
        for _ in range(40):
            write_text(tmp_path / "file", f"{number}" * 1000)
            with atomic_folder(tmp_path / "folder") as folder:
                (folder / "text").write_text(str(number))
            if number == 0:
                with suppress(FileNotFoundError):  # between two renames of another thread
                    (tmp_path / "folder").rename(tmp_path / "gone")
                    shutil.rmtree(tmp_path / "gone")
            elif number == 1:
                there, new = suppress(FileExistsError), tmp_path / "folder"
                with there, atomic_folder(new, replace=False) as folder:
                    (folder / "text").write_text(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    (tmp_path / "folder").mkdir(exist_ok=True)
    assert (tmp_path / "file").read_text() in {f"{n}" * 1000 for n in range(8)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_file_systems_without_locks(code, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):
        write_text(tmp_path / "file", "text")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "text").write_text("text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_errors_of_the_caller_pass_through(tmp_path):
    for error in (BlockingIOError(11, "busy"), ValueError("x"), ConnectionResetError(104, "reset")):
        with pytest.raises(type(error)) as found, atomic_file(tmp_path / "file"):
            raise error
        assert found.value is error
    with pytest.raises(OSError, match="No space left") as full, atomic_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_hard_to_write(tmp_path, monkeypatch):
    for name in ("x" * 250, "ü" * 120, "a*b[c]{d}", ".hidden"):
        for _ in range(2):
            write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"symbolic links.*loop"):
        write_text(tmp_path / "loop", "text")
    assert (tmp_path / "loop").is_symlink()
    os.mkfifo(tmp_path / ".o.json.writing-abcdefgh")  # nothing of ours: it stays, and stops nobody
    write_text(tmp_path / "o.json", "{}")
    assert (tmp_path / ".o.json.writing-abcdefgh").is_fifo()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OSError, match="is the current directory"), atomic_folder("."):
        pass
    assert os.getcwd() == str(tmp_path / "here")


def test_checksums_find_every_change(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(100))
    (tmp_path / "c").write_text("c")
    files = checksums(tmp_path)
    assert list(files) == ["a/b", "c"]
    (tmp_path / "other").write_text("not in the list")
    check_files(tmp_path, files, DataError)
    (tmp_path / "a" / "b").write_bytes(bytes(50) + b"\1" + bytes(49))
    with pytest.raises(DataError, match=f"^{tmp_path}/a/b: damaged: its checksum differs"):
        check_files(tmp_path, files, DataError)
    (tmp_path / "a" / "b").write_bytes(bytes(99))
    message = f"^{tmp_path}/a/b: truncated or changed: 99 bytes, expected 100"
    with pytest.raises(DataError, match=message):
        check_files(tmp_path, files, DataError)
    (tmp_path / "a" / "b").unlink()
    with pytest.raises(DataError, match=f"^{tmp_path}/a/b: missing"):
        check_files(tmp_path, files, DataError)
    for malformed in ([], None, {"c": 1}, {"c": {}}, {"c": {"bytes": 1}}):
        with pytest.raises(DataError, match="list of files is damaged"):
            check_files(tmp_path, malformed, DataError)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b"", b'{"a": "\xe9"}']
)
def test_damaged_json_gives_a_one_line_error(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json: damaged: ") as error:
        read_json(tmp_path / "x.json", DataError)
    assert "\n" not in str(error.value)
