"""Changing what is outside: content, names, metadata, devices, the kernel's settings."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import sys

from tests.sandbox.escapes.kit import (
    ROOTS,
    P,
    at,
    attempt,
    changed,
    opens,
    raw,
)

_SETTING = os.O_WRONLY | os.O_CLOEXEC


@attempt()
def append_to_a_file() -> None:
    """Add to a file that everybody may write."""
    with open(at("secret"), "ab") as file:
        file.write(b"x")


@attempt()
def overwrite_a_file() -> None:
    """Write over its first byte."""
    with open(at("overwritten"), "r+b") as file:
        file.write(b"X")


@attempt()
def empty_a_file_by_opening() -> None:
    """O_TRUNC."""
    opens(at("emptied"), os.O_WRONLY | os.O_TRUNC)


@attempt()
def truncate_a_file_by_path() -> None:
    """truncate(2), which opens nothing."""
    os.truncate(at("truncated"), 1)


@attempt()
def create_a_file() -> None:
    """Beside it."""
    opens(at("new"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)


@attempt()
def create_a_file_through_a_dangling_link() -> None:
    """Write to a link whose target does not exist yet."""
    os.symlink(at("through-link"), "dangling")
    opens("dangling", os.O_WRONLY | os.O_CREAT, mode=0o600)


@attempt()
def create_a_nameless_file() -> None:
    """O_TMPFILE in a folder outside."""
    opens(P["folder"], os.O_WRONLY | os.O_TMPFILE, mode=0o600)


@attempt()
def make_a_folder() -> None:
    """mkdir outside."""
    os.mkdir(at("made"))


@attempt()
def remove_a_folder() -> None:
    """rmdir outside."""
    os.rmdir(at("empty"))


@attempt()
def remove_a_file() -> None:
    """unlink outside."""
    os.unlink(at("removable"))


@attempt()
def rename_a_file() -> None:
    """Give a file outside another name there."""
    os.rename(at("renamable"), at("renamed"))


@attempt()
def take_a_file_in() -> None:
    """Rename a file from outside into the working folder."""
    os.rename(at("takable"), "taken")


@attempt()
def move_a_file_out() -> None:
    """Rename a file of the working folder to the outside."""
    opens("mine", os.O_WRONLY | os.O_CREAT, mode=0o600)
    os.rename("mine", at("moved-out"))


@attempt()
def move_a_folder_out() -> None:
    """Rename a folder of the working folder to the outside, with what is in it."""
    os.mkdir("inner")
    os.rename("inner", at("moved-folder"))


@attempt()
def move_the_working_folder_away() -> None:
    """Rename the working folder itself to a name beside its parent's."""
    os.mkdir("deep")
    os.chdir("deep")
    os.rename("../../" + os.path.basename(os.path.dirname(os.getcwd())), at("escaped-folder"))


@attempt()
def exchange_two_files() -> None:
    """renameat2 with RENAME_EXCHANGE, one inside and one outside."""
    opens("mine", os.O_WRONLY | os.O_CREAT, mode=0o600)
    raw(316, 276, -100, b"mine", -100, at("exchanged").encode(), 2)


@attempt()
def link_a_file_out() -> None:
    """A second name outside for a file of the working folder."""
    opens("mine", os.O_WRONLY | os.O_CREAT, mode=0o600)
    os.link("mine", at("linked-out"))


@attempt()
def leave_a_link_outside() -> None:
    """A symbolic link in a folder outside, for others to follow."""
    os.symlink("/etc/passwd", at("left-link"))


@attempt()
def leave_a_fifo_outside() -> None:
    """A fifo, for others to be stuck at."""
    os.mkfifo(at("fifo"))


@attempt()
def write_through_a_fifo() -> None:
    """To whoever reads a fifo outside."""
    opens(at("open-fifo"), os.O_RDWR | os.O_NONBLOCK)


@attempt()
def create_beside_the_working_folder() -> None:
    """A folder beside those of the runs."""
    os.mkdir(os.path.join(P["base"], P["mark"]))


@attempt()
def spoil_another_runs_file() -> None:
    """Write into the scratch folder of a run that goes on at the same time."""
    opens(os.path.join(P["neighbour_folder"], "neighbour-secret"), os.O_WRONLY | os.O_APPEND)


@attempt()
def spoil_the_ledger() -> None:
    """Write into a database in the gateway's data folder."""
    with open(at("data/ledger.db"), "ab") as file:
        file.write(b"x")


@attempt()
def authorise_a_key() -> None:
    """Add to somebody's authorized_keys."""
    opens(at("home/.ssh/authorized_keys"), os.O_WRONLY | os.O_CREAT, mode=0o600)


@attempt()
def change_a_mode() -> None:
    """chmod."""
    before = os.stat(at("mode")).st_mode
    os.chmod(at("mode"), 0o604)
    changed(before, os.stat(at("mode")).st_mode)


@attempt()
def change_a_mode_by_descriptor() -> None:
    """chmod of /proc/self/fd/N, N being an O_PATH descriptor."""
    fd = os.open(at("mode"), os.O_PATH)
    before = os.fstat(fd).st_mode
    os.chmod(f"/proc/self/fd/{fd}", 0o606)
    changed(before, os.fstat(fd).st_mode)


@attempt(machine=True)
def change_a_mode_by_the_newer_call() -> None:
    """fchmodat2 with AT_EMPTY_PATH on an O_PATH descriptor."""
    fd = os.open(at("mode"), os.O_PATH)
    before = os.fstat(fd).st_mode
    raw(452, 452, fd, b"", 0o602, 0x1000)
    changed(before, os.fstat(fd).st_mode)


@attempt()
def make_a_file_of_ones_own_privileged() -> None:
    """The set-user-id bit on a file of the working folder."""
    opens("mine", os.O_WRONLY | os.O_CREAT, mode=0o600)
    os.chmod("mine", 0o4755)
    changed(0, os.stat("mine").st_mode & stat.S_ISUID)


@attempt()
def change_an_owner() -> None:
    """chown to what it is, which its owner may."""
    os.chown(at("mode"), os.stat(at("mode")).st_uid, -1)


@attempt()
def change_the_owner_of_a_link() -> None:
    """lchown."""
    os.chown(at("link"), os.lstat(at("link")).st_uid, -1, follow_symlinks=False)


@attempt(ROOTS)
def give_a_file_away() -> None:
    """chown to root of a file of the working folder."""
    opens("mine", os.O_WRONLY | os.O_CREAT, mode=0o600)
    os.chown("mine", 0, 0)
    if os.stat("mine").st_uid != 0:
        raise OSError(1, "not root's")


@attempt()
def change_times() -> None:
    """utime."""
    os.utime(at("mode"), (1, 1))
    changed(False, os.stat(at("mode")).st_mtime == 1)


@attempt()
def change_times_by_descriptor() -> None:
    """utimensat with an O_PATH descriptor's name in /proc."""
    fd = os.open(at("times"), os.O_PATH)
    os.utime(f"/proc/self/fd/{fd}", (2, 2))
    changed(False, os.fstat(fd).st_mtime == 2)


@attempt()
def set_an_attribute() -> None:
    """An extended attribute."""
    os.setxattr(at("mode"), "user.probe", b"x")


@attempt()
def remove_an_attribute() -> None:
    """An extended attribute that is there."""
    os.removexattr(at("attributed"), "user.kept")


@attempt(machine=True)
def set_an_access_list() -> None:
    """A POSIX access list, which is an attribute too."""
    entries = b"".join(struct.pack("<HHI", tag, 6, 0xFFFFFFFF) for tag in (1, 4, 32))
    os.setxattr(at("mode"), "system.posix_acl_access", struct.pack("<I", 2) + entries)


@attempt()
def lock_a_file() -> None:
    """An exclusive lock on a file of the gateway's."""
    fd = os.open(at("data/ledger.db"), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


@attempt()
def lease_a_file() -> None:
    """A lease, which holds up everybody who opens the file."""
    fd = os.open(at("leased"), os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@attempt(machine=True)
def make_a_file_immutable() -> None:
    """ioctl FS_IOC_SETFLAGS with the flags that there are."""
    fd = os.open(at("mode"), os.O_RDONLY)
    flags = fcntl.ioctl(fd, 0x80086601, bytes(8))
    fcntl.ioctl(fd, 0x40086602, flags)


@attempt()
def bind_a_socket_in_a_folder() -> None:
    """A Unix socket with a name outside."""
    socket.socket(socket.AF_UNIX).bind(at("bound"))


@attempt(ROOTS)
def write_the_list_of_users() -> None:
    """/etc/passwd, opened for writing and left as it is."""
    opens("/etc/passwd", os.O_WRONLY)


@attempt(ROOTS)
def write_roots_home() -> None:
    """A file in /root, made and taken away."""
    path = os.path.join("/root", "." + P["mark"])
    opens(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    os.unlink(path)


@attempt(ROOTS)
def write_the_system_binaries() -> None:
    """A file in /usr/bin, made and taken away."""
    path = f"/usr/bin/{P['mark']}"
    opens(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    os.unlink(path)


@attempt(ROOTS)
def schedule_a_job() -> None:
    """A file in /etc, as a job in cron.d would be, made and taken away."""
    path = f"/etc/{P['mark']}"
    opens(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    os.unlink(path)


@attempt()
def leave_a_file_in_tmp() -> None:
    """/tmp, where everybody may write; the scene looks for it."""
    opens(f"/tmp/{P['mark']}-left", os.O_WRONLY | os.O_CREAT, mode=0o600)
    _seen(f"/tmp/{P['mark']}-left")


def _seen(path: str) -> None:
    """A cage may have a /tmp of its own; only one that others see is an escape, which the scene finds too."""
    if not P["folder"].startswith("/tmp/") or not os.path.exists(P["folder"]):
        raise OSError(2, "another folder")
    os.unlink(path)


@attempt()
def leave_a_file_in_var_tmp() -> None:
    """/var/tmp, which survives a restart."""
    opens(f"/var/tmp/{P['mark']}-left", os.O_WRONLY | os.O_CREAT, mode=0o600)
    _seen(f"/var/tmp/{P['mark']}-left")


@attempt()
def leave_a_file_in_shared_memory() -> None:
    """/dev/shm, where memory passes for a file."""
    opens(f"/dev/shm/{P['mark']}-left", os.O_WRONLY | os.O_CREAT, mode=0o600)
    _seen(f"/dev/shm/{P['mark']}-left")


@attempt(ROOTS)
def replace_the_interpreter() -> None:
    """The program that the next run will execute, opened for writing (a busy one refuses: its library then)."""
    try:
        opens(sys.executable, os.O_WRONLY)
    except OSError as error:
        if error.errno != 26:
            raise
        opens(os.__file__, os.O_WRONLY)


@attempt(ROOTS)
def poison_the_standard_library() -> None:
    """A module that every later run would import, opened for appending."""
    opens(os.__file__, os.O_WRONLY | os.O_APPEND)


@attempt(ROOTS)
def leave_a_sitecustomize() -> None:
    """A file beside the standard library, made and taken away."""
    path = os.path.join(os.path.dirname(os.__file__), f"{P['mark']}.py")
    opens(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    os.unlink(path)
