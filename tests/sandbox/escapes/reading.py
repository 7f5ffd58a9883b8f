"""Reading what is outside: the machine's files, the gateway's, other people's and other runs'."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys

from tests.sandbox.escapes.kit import (
    ALWAYS,
    ROOT_ALONE,
    ROOT_IN_CONTAINER,
    ROOTS,
    P,
    at,
    attempt,
    check,
    libc,
    opens,
    raw,
    reached,
    reads,
    told,
)

_PATH = os.O_PATH | os.O_CLOEXEC


@attempt()
def read_a_file_by_its_path() -> None:
    """Open a file that everybody may read, by its absolute path."""
    reads(at("secret"), canary=True)


@attempt()
def read_a_file_by_dotdot() -> None:
    """The same file by `..` from the working folder."""
    reads(os.path.relpath(at("secret")), canary=True)


@attempt()
def read_a_file_by_dotdot_of_a_descriptor() -> None:
    """openat of `..` and again `..` from the working folder's descriptor, then down."""
    up = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(12):
        up = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=up)
    reads_at(up, at("secret").lstrip("/"))


def reads_at(folder: int, name: str) -> None:
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    told(os.read(fd, 4096))


@attempt()
def read_a_file_through_a_link() -> None:
    """By a symbolic link made in the working folder."""
    os.symlink(at("secret"), "soft")
    reads("soft", canary=True)


@attempt()
def read_a_file_through_a_linked_folder() -> None:
    """By a symbolic link to its folder."""
    os.symlink(P["folder"], "folder")
    reads("folder/secret", canary=True)


@attempt()
def read_a_file_through_a_chain_of_links() -> None:
    """By links to links through `.` and `..`, as a checker that resolves once would miss."""
    os.symlink("/", "a")
    os.symlink("a/.", "b")
    reads("b/" + at("secret").lstrip("/"), canary=True)


@attempt()
def read_a_file_through_a_hard_link() -> None:
    """By a second name for it, made in the working folder."""
    os.link(at("secret"), "hard")
    reads("hard", canary=True)


@attempt()
def read_a_file_through_a_link_of_its_descriptor() -> None:
    """linkat of /proc/self/fd/N, N being an O_PATH descriptor of the file."""
    fd = os.open(at("secret"), _PATH)
    raw(265, 37, -100, f"/proc/self/fd/{fd}".encode(), -100, b"named", 0x400)
    reads("named", canary=True)


@attempt()
def reopen_a_path_descriptor() -> None:
    """O_PATH on the file, which asks for no right, then open /proc/self/fd/N for reading."""
    fd = os.open(at("secret"), _PATH)
    reads(f"/proc/self/fd/{fd}", canary=True)


@attempt()
def reopen_a_path_descriptor_by_dev_fd() -> None:
    """The same by /dev/fd/N."""
    fd = os.open(at("secret"), _PATH)
    reads(f"/dev/fd/{fd}", canary=True)


@attempt()
def read_beneath_a_path_descriptor() -> None:
    """O_PATH on the folder, then openat of the file beneath it."""
    reads_at(os.open(P["folder"], _PATH | os.O_DIRECTORY), "secret")


@attempt()
def read_in_a_root_of_a_descriptor() -> None:
    """openat2 with RESOLVE_IN_ROOT, the root being outside."""
    folder = os.open(P["folder"], _PATH | os.O_DIRECTORY)
    how = ctypes.create_string_buffer(struct.pack("<QQQ", os.O_RDONLY, 0, 0x10), 24)
    told(os.read(raw(437, 437, folder, b"/secret", how, 24), 4096))


@attempt()
def read_after_moving_there() -> None:
    """chdir outside, then open by a plain name."""
    os.chdir(P["folder"])
    reads("secret", canary=True)


@attempt()
def list_after_moving_by_descriptor() -> None:
    """fchdir to an O_PATH descriptor, then list `.`."""
    os.fchdir(os.open(P["folder"], _PATH | os.O_DIRECTORY))
    os.listdir(".")


@attempt()
def map_a_file() -> None:
    """Open for reading and mmap, as a loader does."""
    import mmap

    fd = os.open(at("secret"), os.O_RDONLY)
    told(mmap.mmap(fd, 0, access=mmap.ACCESS_READ)[:])


@attempt()
def load_a_library_from_outside() -> None:
    """dlopen of a shared object that lies outside."""
    ctypes.CDLL(at("library.so"))


@attempt()
def import_a_module_from_outside() -> None:
    """Put the folder on sys.path and import what lies there."""
    sys.path.insert(0, P["folder"])
    import planted_module

    told(planted_module.SECRET.encode())


@attempt()
def read_with_another_program() -> None:
    """cat, should it have rights of its own."""
    told(subprocess.run(["/bin/cat", at("secret")], stdout=subprocess.PIPE, check=False).stdout)


@attempt()
def read_with_a_program_of_anothers_rights() -> None:
    """Through the loader, as `ld.so /bin/cat`, so that no execute bit is asked for."""
    loader = "/lib/ld-linux-aarch64.so.1" if os.uname().machine == "aarch64" else "/lib64/ld-linux-x86-64.so.2"
    told(subprocess.run([loader, "/bin/cat", at("secret")], stdout=subprocess.PIPE, check=False).stdout)


@attempt()
def copy_a_file_in_the_kernel() -> None:
    """sendfile from outside into the working folder."""
    source, target = os.open(at("secret"), os.O_RDONLY), os.open("copy", os.O_RDWR | os.O_CREAT, 0o600)
    os.sendfile(target, source, 0, 4096)
    told(os.pread(target, 4096, 0))


@attempt()
def take_a_handle_of_a_file() -> None:
    """name_to_handle_at, half of a way around every path."""
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0) + bytes(128))
    raw(303, 264, -100, at("secret").encode(), handle, ctypes.byref(ctypes.c_int()), 0)


@attempt(ROOT_ALONE)
def open_a_file_by_its_handle() -> None:
    """open_by_handle_at, the other half ("shocker"); the handle is nonsense."""
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 8, 1) + bytes(8))
    reached(lambda: raw(304, 265, -100, handle, os.O_RDONLY))


@attempt()
def list_the_root() -> None:
    """The machine's top folder, by its gateway's folder being named in it."""
    if P["folder"].split("/")[1] not in os.listdir("/"):
        raise OSError(2, "another root")
    os.listdir(P["folder"])


@attempt()
def list_a_folder() -> None:
    """The names in a folder outside."""
    os.listdir(P["folder"])


@attempt()
def walk_by_the_process_root() -> None:
    """The file through /proc/self/root."""
    reads("/proc/self/root" + at("secret"), canary=True)


@attempt()
def walk_by_the_process_folder() -> None:
    """The file through /proc/self/cwd and many `..`."""
    reads("/proc/self/cwd" + "/.." * 12 + at("secret"), canary=True)


@attempt()
def walk_by_a_thread_root() -> None:
    """The file through /proc/thread-self/root."""
    reads("/proc/thread-self/root" + at("secret"), canary=True)


@attempt(ALWAYS)
def walk_by_the_first_processes_roots() -> None:
    """The file through the roots of the first process and of the gateway."""
    for pid in (1, P["gateway"]):
        try:
            return reads(f"/proc/{pid}/root" + at("secret"), canary=True)
        except OSError:
            continue
    raise OSError(13, "none")


@attempt()
def walk_by_any_process_root() -> None:
    """The file through the root of whichever process lets one in."""
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            return reads(f"/proc/{pid}/root" + at("secret"), canary=True)
        except OSError:
            continue
    raise OSError(13, "none")


@attempt()
def steal_an_open_file_by_proc() -> None:
    """Reopen a file that another process has open, by /proc/<pid>/fd."""
    reads(f"/proc/{P['bystander']}/fd/{P['bystander_fd']}", canary=True)


@attempt()
def steal_the_gateways_open_file() -> None:
    """Reopen a file that the gateway has open, by /proc/<pid>/fd."""
    reads(f"/proc/{P['gateway']}/fd/{P['gateway_fd']}", canary=True)


@attempt()
def read_the_gateways_environment() -> None:
    """Its secrets, by /proc/<pid>/environ."""
    reads(f"/proc/{P['gateway']}/environ", canary=True)


@attempt()
def read_a_bystanders_environment() -> None:
    """Another process's secrets."""
    reads(f"/proc/{P['bystander']}/environ", canary=True)


@attempt()
def read_the_gateways_command_line() -> None:
    """What it was started with."""
    reads(f"/proc/{P['gateway']}/cmdline")


@attempt()
def read_the_gateways_maps() -> None:
    """Where its libraries lie: the end of address randomisation."""
    reads(f"/proc/{P['gateway']}/maps")


@attempt()
def read_the_gateways_memory() -> None:
    """/proc/<pid>/mem, opened."""
    opens(f"/proc/{P['gateway']}/mem")


@attempt()
def read_the_gateways_ledger() -> None:
    """A database in its data folder."""
    reads(at("data/ledger.db"), canary=True)


@attempt()
def read_a_private_key() -> None:
    """An SSH key in somebody's home."""
    reads(at("home/.ssh/id_ed25519"), canary=True)


@attempt()
def read_a_cloud_credential() -> None:
    """A token where a cloud's tools keep it."""
    reads(at("home/.aws/credentials"), canary=True)


@attempt()
def read_the_list_of_users() -> None:
    """/etc/passwd of this machine."""
    if b"root:" in open("/etc/passwd", "rb").read() and len(os.listdir("/etc")) > 3:
        return
    raise OSError(2, "another list")


@attempt(ROOTS)
def read_the_hashes_of_passwords() -> None:
    """/etc/shadow."""
    reads("/etc/shadow")


@attempt(ROOTS)
def read_roots_home() -> None:
    """Names in /root."""
    os.listdir("/root")


@attempt(ROOT_ALONE, machine=True)
def read_physical_memory() -> None:
    """/dev/mem."""
    opens("/dev/mem")


@attempt(ROOT_ALONE, machine=True)
def read_kernel_memory() -> None:
    """/proc/kcore."""
    opens("/proc/kcore")


@attempt(ROOT_ALONE, machine=True)
def read_the_kernels_log() -> None:
    """/dev/kmsg."""
    opens("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)


@attempt(ROOT_ALONE, machine=True)
def read_the_kernels_log_by_proc() -> None:
    """/proc/kmsg."""
    opens("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)


@attempt(ROOTS, machine=True)
def read_the_raw_disk() -> None:
    """A block device, on which every file lies."""
    for name in ("vda", "sda", "nvme0n1", "loop0"):
        try:
            return opens(f"/dev/{name}")
        except OSError:  # there is none, or a control group of devices keeps it from everybody here
            continue
    raise OSError(2, "no disk here")


@attempt()
def list_the_devices_of_the_kernel() -> None:
    """Names in /sys."""
    os.listdir("/sys/devices")


@attempt(machine=True)
def list_the_control_groups() -> None:
    """Names in /sys/fs/cgroup."""
    os.listdir("/sys/fs/cgroup")


@attempt()
def list_temporary_files() -> None:
    """Names in /tmp, found by the scene's own."""
    if not any(name.startswith("bailiwick-") for name in os.listdir("/tmp")):
        raise OSError(2, "another /tmp")


@attempt()
def watch_a_folder() -> None:
    """inotify: see what others do there."""
    fd = check(libc.inotify_init())
    check(libc.inotify_add_watch(fd, P["folder"].encode(), 0xFFF))


@attempt(ROOT_ALONE, machine=True)
def watch_the_whole_disk() -> None:
    """fanotify."""
    raw(300, 262, 0, os.O_RDONLY)


@attempt()
def read_another_runs_file() -> None:
    """The scratch folder of a run that goes on at the same time."""
    reads(os.path.join(P["neighbour_folder"], "neighbour-secret"), canary=True)


@attempt(ALWAYS - {ROOT_IN_CONTAINER})
def read_another_runs_file_by_its_root() -> None:
    """The same through the other run's processes' roots."""
    for pid in P["neighbours"]:
        try:
            return reads(f"/proc/{pid}/cwd/neighbour-secret", canary=True)
        except OSError:
            continue
    raise OSError(13, "none")


@attempt()
def list_the_scratch_folders() -> None:
    """The names of other runs' folders."""
    os.listdir(P["base"])


@attempt(ALWAYS - {ROOT_IN_CONTAINER})
def read_another_runs_environment() -> None:
    """What another run was told."""
    for pid in P["neighbours"]:
        try:
            return reads(f"/proc/{pid}/environ")
        except OSError:
            continue
    raise OSError(13, "none")


@attempt()
def read_what_shared_memory_holds() -> None:
    """A file in /dev/shm that everybody may read."""
    reads(P["shm_file"], canary=True)


@attempt()
def attach_a_system_v_segment() -> None:
    """A segment that everybody may attach."""
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(P["shm_id"], None, 0o10000)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "")
    told(ctypes.string_at(address, 64))


@attempt()
def receive_from_a_system_v_queue() -> None:
    """A message that lies in a queue that everybody may read."""
    buffer = ctypes.create_string_buffer(256)
    check(libc.msgrcv(P["msg_id"], buffer, 200, 0, 0o4000))
    told(buffer.raw)
