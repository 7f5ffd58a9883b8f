"""The kernel's own surface: namespaces, mounts, modules, keys, programs, privileges, foreign entry points, and one's own cage."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import struct
import subprocess

from tests.sandbox.escapes.kit import ALWAYS, ARM, BARE, ROOT_ALONE, ROOTS, P, at, attempt, check, in_child, libc, raw, reached

_NEW_USER, _NEW_NS, _NEW_NET, _NEW_PID, _NEW_UTS, _NEW_IPC, _NEW_CGROUP = (
    0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x04000000, 0x08000000, 0x02000000,
)  # fmt: skip


def _unshare(flags: int) -> None:
    in_child(lambda: check(libc.unshare(flags)))


@attempt(BARE)
def make_a_user_namespace() -> None:
    """unshare(CLONE_NEWUSER): root in a world of one's own, and the kernel's whole surface with it."""
    _unshare(_NEW_USER)


@attempt(BARE)
def make_a_mount_namespace() -> None:
    """The same with mounts of one's own."""
    _unshare(_NEW_USER | _NEW_NS)


@attempt(BARE)
def make_a_network_namespace() -> None:
    """The same with a network of one's own, where netfilter is one's to program."""
    _unshare(_NEW_USER | _NEW_NET)


@attempt(BARE)
def make_a_process_namespace() -> None:
    """The same with processes of one's own, which outlive whom they should not."""
    _unshare(_NEW_USER | _NEW_PID)


@attempt(BARE)
def make_the_other_namespaces() -> None:
    """The same with names, IPC and control groups of one's own."""
    _unshare(_NEW_USER | _NEW_UTS | _NEW_IPC | _NEW_CGROUP)


@attempt(BARE)
def clone_into_a_namespace() -> None:
    """clone with CLONE_NEWUSER."""

    def clone() -> None:
        child = raw(56, 220, _NEW_USER | 17, 0, 0, 0, 0)
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

    in_child(clone)


@attempt(BARE)
def clone_into_a_namespace_by_the_newer_call() -> None:
    """clone3, whose flags lie in memory where no filter sees them."""

    def clone() -> None:
        arguments = ctypes.create_string_buffer(struct.pack("<QQQQQQQQ", _NEW_USER, 0, 0, 0, 17, 0, 0, 0))
        child = raw(435, 435, arguments, 64)
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

    in_child(clone)


@attempt(BARE)
def make_a_namespace_and_mount() -> None:
    """A tmpfs over the working folder in a mount namespace of one's own."""

    def mount() -> None:
        check(libc.unshare(_NEW_USER | _NEW_NS))
        check(libc.mount(b"none", os.getcwd().encode(), b"tmpfs", 0, None))

    in_child(mount)


@attempt(BARE)
def mount_a_file_system() -> None:
    """mount of nothing at nowhere: as far as its arguments."""
    reached(lambda: check(libc.mount(b"none", b"/nonexistent", b"tmpfs", 0, None)))


@attempt(ROOT_ALONE)
def bind_a_folder_in() -> None:
    """A bind mount of a folder outside over one inside, in a namespace of one's own so that it ends with us."""
    os.mkdir("bound")

    def bind() -> None:
        check(libc.unshare(_NEW_NS))
        check(libc.mount(None, b"/", None, 0x44000, None))
        check(libc.mount(P["folder"].encode(), b"bound", None, 4096, None))
        os.listdir("bound")

    in_child(bind)


@attempt(BARE)
def remount_the_root() -> None:
    """mount with MS_REMOUNT of nowhere."""
    reached(lambda: check(libc.mount(None, b"/nonexistent", None, 32, None)))


@attempt(BARE)
def unmount_something() -> None:
    """umount2 of nowhere, with MNT_DETACH."""
    reached(lambda: check(libc.umount2(b"/nonexistent", 2)))


@attempt(ROOT_ALONE)
def open_a_file_system() -> None:
    """fsopen of the newer mount calls."""
    os.close(raw(430, 430, b"tmpfs", 0))


@attempt(ROOT_ALONE)
def copy_a_tree_of_mounts() -> None:
    """open_tree with OPEN_TREE_CLONE: a view of a folder that no later rule covers."""
    os.close(raw(428, 428, -100, P["folder"].encode(), 1))


@attempt(BARE)
def hold_a_tree_of_mounts() -> None:
    """open_tree without a copy, which asks for no privilege."""
    os.close(raw(428, 428, -100, P["folder"].encode(), 0))


@attempt(ROOT_ALONE)
def move_a_mount() -> None:
    """move_mount of nothing."""
    reached(lambda: raw(429, 429, -1, b"", -1, b"", 0))


@attempt(ROOT_ALONE)
def change_a_mounts_attributes() -> None:
    """mount_setattr of nowhere."""
    attributes = ctypes.create_string_buffer(32)
    reached(lambda: raw(442, 442, -100, b"/nonexistent", 0, attributes, 32))


@attempt(machine=True)
def list_the_mounts() -> None:
    """listmount: every mount of the machine, without /proc."""
    request, found = ctypes.create_string_buffer(struct.pack("<IIQQQ", 24, 0, 0xFFFFFFFFFFFFFFFF, 0, 0)), (ctypes.c_uint64 * 64)()
    raw(458, 458, request, found, 64, 0)


@attempt(ROOTS)
def change_the_root() -> None:
    """chroot, whose second use leaves the first."""
    in_child(lambda: os.chroot("."))


@attempt(ROOT_ALONE)
def pivot_the_root() -> None:
    """pivot_root of nowhere."""
    reached(lambda: raw(155, 41, b"/nonexistent", b"/nonexistent"))


@attempt(ROOT_ALONE, machine=True)
def load_a_module() -> None:
    """init_module of nothing."""
    reached(lambda: raw(175, 105, None, 0, b""))


@attempt(ROOT_ALONE, machine=True)
def load_a_module_from_a_file() -> None:
    """finit_module of no file."""
    reached(lambda: raw(313, 273, -1, b"", 0))


@attempt(ROOT_ALONE, machine=True)
def boot_another_kernel() -> None:
    """kexec_load of nothing, with flags that there are not."""
    reached(lambda: raw(246, 104, 0, 0, None, 0xFFFF))


@attempt(ROOT_ALONE)
def restart_the_machine() -> None:
    """reboot with a wrong magic number."""
    reached(lambda: raw(169, 142, 0, 0, 0, 0))


@attempt(ROOT_ALONE)
def swap_to_a_file() -> None:
    """swapon of nowhere."""
    reached(lambda: raw(167, 224, b"/nonexistent", 0))


@attempt(ROOT_ALONE)
def rename_the_machine() -> None:
    """sethostname to what it is."""
    name = os.uname().nodename.encode()
    check(libc.sethostname(name, len(name)))


@attempt(ROOT_ALONE, machine=True)
def account_for_processes() -> None:
    """acct of nowhere."""
    reached(lambda: raw(163, 89, b"/nonexistent"))


@attempt(ROOT_ALONE)
def read_the_kernels_ring() -> None:
    """syslog(2)."""
    check(libc.klogctl(3, ctypes.create_string_buffer(64), 64))


@attempt(ROOT_ALONE, machine=True)
def load_a_program() -> None:
    """bpf: a map."""
    attributes = ctypes.create_string_buffer(struct.pack("<IIII", 2, 4, 4, 1) + bytes(112))
    os.close(raw(321, 280, 0, attributes, 72))


@attempt(BARE, machine=True)
def count_events() -> None:
    """perf_event_open on oneself."""
    reached(lambda: raw(298, 241, None, 0, -1, -1, 0))


@attempt(BARE, machine=True)
def handle_ones_own_faults() -> None:
    """userfaultfd for user space, which wins races for exploits."""
    os.close(raw(323, 282, 1))


@attempt(BARE)
def keep_a_key() -> None:
    """add_key to the user's keyring, where the next run of this user would find it; taken away again."""
    key = raw(248, 217, b"user", P["mark"].encode(), b"x", 1, -4)
    raw(250, 219, 9, key, -4)


@attempt(BARE)
def find_a_key() -> None:
    """keyctl: the session's keyring."""
    reached(lambda: raw(250, 219, 0, -3, 0))


@attempt(BARE)
def request_a_key() -> None:
    """request_key, which makes the kernel run a program as root."""
    reached(lambda: raw(249, 218, b"user", P["mark"].encode(), None, 0))


@attempt()
def make_memory_that_is_a_file() -> None:
    """memfd_create: memory that no limit of a process counts, and that can be executed."""
    os.close(os.memfd_create("x"))


@attempt(machine=True)
def make_secret_memory() -> None:
    """memfd_secret: memory that not even the kernel's watchers see."""
    os.close(raw(447, 447, 0))


@attempt()
def make_a_system_v_segment() -> None:
    """shmget: memory that outlives its maker; taken away again."""
    found = check(libc.shmget(0, 4096, 0o1600))
    check(libc.shmctl(found, 0, None))


@attempt()
def make_a_system_v_queue() -> None:
    """msgget: a letter box for the next run; taken away again."""
    check(libc.msgctl(check(libc.msgget(0, 0o1600)), 0, None))


@attempt()
def make_a_system_v_semaphore() -> None:
    """semget; taken away again."""
    check(libc.semctl(check(libc.semget(0, 1, 0o1600)), 0, 0))


@attempt()
def make_a_posix_queue() -> None:
    """mq_open: the same by another door; taken away again."""
    name = b"/" + P["mark"].encode()
    check(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None))
    check(libc.mq_unlink(name))


@attempt(machine=True)
def change_the_segments() -> None:
    """modify_ldt: 16-bit segments, a door of many exploits."""
    if ARM:
        raise OSError(38, "not on this processor")
    reached(lambda: raw(154, 0, 0, None, 0))


@attempt(ROOT_ALONE, machine=True)
def reach_the_ports() -> None:
    """ioperm: the machine's input and output."""
    if ARM:
        raise OSError(38, "not on this processor")
    in_child(lambda: raw(173, 0, 0x80, 1, 1))


@attempt(ROOT_ALONE, machine=True)
def raise_the_level_of_ports() -> None:
    """iopl."""
    if ARM:
        raise OSError(38, "not on this processor")
    in_child(lambda: raw(172, 0, 3))


@attempt()
def change_the_personality() -> None:
    """personality: no address randomisation for the next program."""
    in_child(lambda: check(libc.personality(0x40000)))


@attempt()
def become_a_32_bit_personality() -> None:
    """personality PER_LINUX32."""
    in_child(lambda: check(libc.personality(8)))


@attempt(BARE, machine=True)
def place_memory() -> None:
    """set_mempolicy and its kin: the default policy."""
    raw(238, 237, 0, None, 0)


@attempt(BARE, machine=True)
def place_memory_of_ones_own() -> None:
    """mbind of nothing."""
    reached(lambda: raw(237, 235, 0, 0, 0, None, 0, 0))


@attempt()
def splice_memory() -> None:
    """vmsplice: pages given to a pipe, as several exploits began."""
    near, far = os.pipe()
    buffer = ctypes.create_string_buffer(b"x" * 8)
    vector = ctypes.create_string_buffer(struct.pack("<QQ", ctypes.addressof(buffer), 8))
    raw(278, 75, far, vector, 1, 0)
    os.close(near)


@attempt(BARE, machine=True)
def set_a_quota() -> None:
    """quotactl of nowhere."""
    reached(lambda: raw(179, 60, 0x80000100, b"/nonexistent", 0, None))


# -- privileges ------------------------------------------------------------------------------------------------------------------


@attempt(ROOTS)
def become_root() -> None:
    """setuid(0)."""
    in_child(lambda: os.setresuid(0, 0, 0))


@attempt(ROOTS)
def join_roots_group() -> None:
    """setgid(0)."""
    in_child(lambda: os.setresgid(0, 0, 0))


@attempt(ROOTS)
def join_other_groups() -> None:
    """setgroups."""
    in_child(lambda: os.setgroups([0, 4, 6]))


def _take_chown(inheritable: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0))
    raw(126, 91, header, ctypes.create_string_buffer(struct.pack("<IIIIII", 1, 1, inheritable, 0, 0, 0)))


@attempt(ROOTS)
def keep_a_capability() -> None:
    """capset with CAP_CHOWN in force."""
    in_child(lambda: _take_chown(0))


@attempt(ROOTS)
def keep_an_ambient_capability() -> None:
    """PR_CAP_AMBIENT_RAISE, so that the next program has it too."""

    def keep() -> None:
        _take_chown(1)
        check(libc.prctl(47, 2, 0, 0, 0))

    in_child(keep)


@attempt(ROOTS)
def change_the_secure_bits() -> None:
    """PR_SET_SECUREBITS."""
    in_child(lambda: check(libc.prctl(28, 0, 0, 0, 0)))


@attempt(BARE)
def run_a_privileged_program() -> None:
    """su, whose set-user-id bit must not count: no_new_privs tells."""
    if check(libc.prctl(39, 0, 0, 0, 0)):
        raise OSError(1, "no new privileges")
    subprocess.run(["/bin/su", "--version"], stdout=subprocess.DEVNULL, check=True)


@attempt()
def run_su_at_all() -> None:
    """su, executed."""
    subprocess.run(["/bin/su", "--version"], stdout=subprocess.DEVNULL, check=True)


@attempt()
def run_a_program_from_outside() -> None:
    """A script of somebody's that lies outside."""
    subprocess.run([at("program")], check=True)


@attempt()
def run_a_program_by_descriptor() -> None:
    """execveat of an O_PATH descriptor of it."""

    def execute() -> None:
        fd = os.open("/bin/su", os.O_PATH)
        arguments = (ctypes.c_char_p * 3)(b"su", b"--version", None)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        raw(322, 281, fd, b"", arguments, arguments, 0x1000)

    in_child(execute)


@attempt()
def dump_core() -> None:
    """A core dump of oneself: only a limit of 1 keeps the kernel from handing it to a program that runs as root outside."""
    in_child(lambda: resource.setrlimit(resource.RLIMIT_CORE, (4096, resource.getrlimit(resource.RLIMIT_CORE)[1])))


@attempt(ALWAYS)
def feed_the_handler_of_core_dumps() -> None:
    """A hard limit other than 1 lets a piped core_pattern start its handler, as root and outside, for whoever crashes here."""
    if resource.getrlimit(resource.RLIMIT_CORE) == (1, 1):
        raise OSError(1, "the kernel gives the dump up before it starts a handler")


# -- foreign entry points --------------------------------------------------------------------------------------------------------


def _machine_code(code: str) -> None:
    if ARM:
        raise OSError(38, "not on this processor")
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes.fromhex(code))

    def enter() -> None:
        answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        if answer == -38:
            raise OSError(38, "the kernel has no such door")

    in_child(enter)


@attempt(machine=True)
def enter_by_the_32_bit_door() -> None:
    """int 0x80, getpid: other numbers, other rules."""
    try:
        _machine_code("b814000000cd80c3")
    except PermissionError as error:
        if P["caged"]:
            raise
        raise OSError(38, "the kernel has no such door") from error


@attempt(machine=True)
def enter_by_the_x32_door() -> None:
    """A number with the x32 bit."""
    _machine_code("b8270000400f05c3")


@attempt(machine=True)
def enter_by_the_old_x32_door() -> None:
    """Number 512, which reached x32 from 64 bit on old kernels."""
    _machine_code("b8000200000f05c3")


# -- one's own cage --------------------------------------------------------------------------------------------------------------


@attempt()
def outlive_ones_parent() -> None:
    """PR_SET_PDEATHSIG 0: the end of the warden would no longer be ours."""
    in_child(lambda: check(libc.prctl(1, 0, 0, 0, 0)))


@attempt()
def hide_from_the_watchdog() -> None:
    """PR_SET_DUMPABLE 0: open files could no longer be counted."""
    in_child(lambda: check(libc.prctl(4, 0, 0, 0, 0)))


@attempt()
def let_others_trace() -> None:
    """PR_SET_PTRACER, to anybody; outside it gets through where Yama is, and to EINVAL where it is not."""
    in_child(lambda: reached(lambda: check(libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0))))


@attempt(machine=True)
def move_ones_memory_map() -> None:
    """PR_SET_MM: lie about where one's arguments and environment are."""
    in_child(lambda: reached(lambda: check(libc.prctl(35, 14, 0, 0, 0)))) if P["environment"] == "root" or P["caged"] else None


@attempt()
def stack_a_filter() -> None:
    """seccomp: a filter of one's own that fakes answers to what one starts; outside with nonsense arguments."""
    in_child(lambda: reached(lambda: raw(317, 277, 1, 0, None)))


@attempt()
def stack_a_filter_by_the_older_call() -> None:
    """PR_SET_SECCOMP."""
    in_child(lambda: reached(lambda: check(libc.prctl(22, 2, None, 0, 0))))


@attempt()
def stack_a_domain() -> None:
    """Landlock rules of one's own: sixteen layers, and then nothing more is held."""
    reached(lambda: raw(444, 444, None, 0, 1))


@attempt()
def restrict_oneself_further() -> None:
    """landlock_restrict_self with no ruleset."""

    def restrict() -> None:
        check(libc.prctl(38, 1, 0, 0, 0))
        reached(lambda: raw(446, 446, -1, 0))

    in_child(restrict)


@attempt(machine=True)
def label_oneself() -> None:
    """lsm_set_self_attr."""
    reached(lambda: raw(460, 460, 100, None, 0, 0))


@attempt(machine=True)
def use_a_call_that_nobody_knows() -> None:
    """Numbers newer than the filter's table; where the kernel has none of them there is nothing to show."""
    for number in range(470, 512):
        try:
            raw(number, number, 0, 0, 0, 0, 0, 0)
        except OSError as error:
            if error.errno == 38:
                continue
        return
    raise OSError(38, "none here")
