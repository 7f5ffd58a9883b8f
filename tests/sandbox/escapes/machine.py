"""The machine itself: devices, the kernel's settings, control groups, terminals; opened, and left as they are."""

from __future__ import annotations

import fcntl
import os
import stat

from tests.sandbox.escapes.kit import ROOT_ALONE, ROOTS, P, attempt, needs, opens, raw

_SETTING = os.O_WRONLY | os.O_CLOEXEC


@attempt(ROOTS)
def make_a_device_node() -> None:
    """mknod of a character device in the working folder."""
    os.mknod("device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))


@attempt(ROOTS, machine=True)
def make_a_disk_node_and_read_it() -> None:
    """mknod of the machine's disk in the working folder."""
    os.mknod("disk", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    opens("disk")


@attempt(ROOTS, machine=True)
def write_the_raw_disk() -> None:
    """A block device that holds nothing, opened for writing."""
    opens("/dev/loop0", os.O_WRONLY)


@attempt(ROOTS, machine=True)
def make_a_loop_device() -> None:
    """/dev/loop-control."""
    opens("/dev/loop-control", os.O_RDWR)


@attempt(ROOTS, machine=True)
def write_the_kernels_log() -> None:
    """/dev/kmsg, opened for writing."""
    opens("/dev/kmsg", os.O_WRONLY)


@attempt(ROOTS, machine=True)
def make_a_network_device() -> None:
    """/dev/net/tun."""
    opens("/dev/net/tun", os.O_RDWR)


@attempt(ROOTS, machine=True)
def serve_a_file_system() -> None:
    """/dev/fuse."""
    opens("/dev/fuse", os.O_RDWR)


@attempt(ROOTS, machine=True)
def start_a_machine() -> None:
    """/dev/kvm."""
    opens("/dev/kvm", os.O_RDWR)


@attempt()
def open_a_terminal() -> None:
    """/dev/ptmx: a new terminal on the machine."""
    opens("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)


@attempt()
def inject_into_a_terminal() -> None:
    """TIOCSTI into a terminal that one controls, as others' were by the same call."""
    control, terminal = os.openpty()
    os.setsid() if os.getpgid(0) != os.getpid() else None
    child = os.fork()
    if not child:
        os.setsid()
        code = 0
        try:
            fcntl.ioctl(terminal, 0x540E, 0)
            fcntl.ioctl(terminal, 0x5412, b"x")
        except OSError as error:
            code = error.errno or 5
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(control)
    if code:
        raise OSError(code, "")


@attempt(ROOTS)
def type_at_the_console() -> None:
    """/dev/console, opened for writing."""
    opens("/dev/tty1", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)


def _setting(path: str) -> None:
    """A setting of the kernel, opened for writing and left as it is."""
    opens(path, _SETTING)


@attempt(ROOT_ALONE)
def set_the_handler_of_core_dumps() -> None:
    """/proc/sys/kernel/core_pattern: a program that the kernel runs as root."""
    _setting("/proc/sys/kernel/core_pattern")


@attempt(ROOTS, machine=True)
def set_the_loader_of_modules() -> None:
    """/proc/sys/kernel/modprobe: another one."""
    _setting("/proc/sys/kernel/modprobe")


@attempt(ROOTS, machine=True)
def set_the_handler_of_hotplug() -> None:
    """/sys/kernel/uevent_helper: another one."""
    _setting("/sys/kernel/uevent_helper")


@attempt(ROOTS, machine=True)
def set_a_release_agent() -> None:
    """release_agent of a version 1 control group: another one."""
    for name in ("memory", "cpu", "pids", "systemd"):
        if os.path.exists(f"/sys/fs/cgroup/{name}/release_agent"):
            return _setting(f"/sys/fs/cgroup/{name}/release_agent")
    raise OSError(2, "no such group")


@attempt(ROOTS, machine=True)
def register_a_binary_format() -> None:
    """binfmt_misc: another one."""
    _setting("/proc/sys/fs/binfmt_misc/register")


@attempt(ROOTS, machine=True)
def trigger_the_kernels_keys() -> None:
    """/proc/sysrq-trigger, opened and not written."""
    _setting("/proc/sysrq-trigger")


@attempt(ROOT_ALONE)
def set_the_limits_of_the_machine() -> None:
    """/proc/sys/kernel/pid_max."""
    _setting("/proc/sys/kernel/pid_max")


@attempt(ROOTS, machine=True)
def leave_a_control_group() -> None:
    """Move oneself to another control group."""
    for name in ("pids", "memory", "unified"):
        if os.path.exists(f"/sys/fs/cgroup/{name}/cgroup.procs"):
            return _setting(f"/sys/fs/cgroup/{name}/cgroup.procs")
    raise OSError(2, "no such group")


@attempt(ROOTS, machine=True)
def make_a_control_group() -> None:
    """A control group of one's own, made and taken away."""
    for name in ("pids", "memory", "unified"):
        if os.path.isdir(f"/sys/fs/cgroup/{name}"):
            os.mkdir(f"/sys/fs/cgroup/{name}/{P['mark']}")
            return os.rmdir(f"/sys/fs/cgroup/{name}/{P['mark']}")
    raise OSError(2, "no such group")


@attempt(ROOT_ALONE, machine=True)
def be_spared_by_the_memory_killer() -> None:
    """A lower oom_score_adj than the gateway's."""
    needs(24)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-999")


@attempt()
def offer_a_bystander_to_the_memory_killer() -> None:
    """A higher oom_score_adj for another process."""
    with open(f"/proc/{P['bystander']}/oom_score_adj", "w") as file:
        file.write("500")


@attempt()
def write_a_map_of_users() -> None:
    """/proc/self/uid_map, opened for writing."""
    opens("/proc/self/uid_map", os.O_WRONLY)


@attempt(ROOT_ALONE)
def set_the_clock_of_the_machine() -> None:
    """settimeofday of the time zone alone, to none."""
    raw(164, 170, None, bytes(8))
