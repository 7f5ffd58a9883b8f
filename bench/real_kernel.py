"""The sandbox on a kernel of its own with cgroup v2, under software emulation: `python -m bench.real_kernel linux-image-….deb`.

A campaign, not part of `make bench`: it needs qemu-system-x86_64, busybox-static, dpkg and cpio, and takes minutes.  The guest
has the machine's own files, read-only beneath a layer in its memory; nothing of what it does comes back but what it prints.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "fs/netfs/netfs", "fs/fscache/fscache",
    "net/9p/9pnet", "net/9p/9pnet_virtio", "fs/9p/9p", "fs/overlayfs/overlay",
)  # fmt: skip
INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mkdir -p /proc /dev
$B mount -t proc proc /proc; $B mount -t devtmpfs dev /dev
for m in MODULES; do $B insmod /modules/$m.ko; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host
$B mount -t tmpfs up /up; $B mkdir /up/u /up/w
$B mount -t overlay -o lowerdir=/host,upperdir=/up/u,workdir=/up/w over /merged
$B mount -t proc proc /merged/proc; $B mount -t sysfs sys /merged/sys; $B mount -t devtmpfs dev /merged/dev
$B mount -t tmpfs tmp /merged/tmp; $B chmod 1777 /merged/tmp; $B mount -t tmpfs run /merged/run
$B mkdir -p /merged/dev/shm; $B mount -t tmpfs shm /merged/dev/shm
$B mount -t cgroup2 cgroup /merged/sys/fs/cgroup
$B ip link set lo up
$B cp /work.sh /merged/tmp/work.sh; $B cp /table.py /merged/tmp/table.py
$B umount /proc
exec $B switch_root /merged /bin/sh /tmp/work.sh
"""
WORK = """
cd REPOSITORY
export PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
uname -r
echo "--- the tests of control groups, as root"
PYTHON -m pytest -q -p no:cacheprovider --timeout=900 -rs tests/sandbox/test_cgroup.py 2>&1
mkdir /tmp/copy && cp -r sandbox /tmp/copy/ && chmod -R a+rX /tmp/copy
echo "--- guarantees, as root"
PYTHONPATH=/tmp/copy /usr/bin/python3 /tmp/table.py
for name in memory pids cpu; do echo +$name > /sys/fs/cgroup/cgroup.subtree_control; done
mkdir /sys/fs/cgroup/given && cd /sys/fs/cgroup/given
chown 65534 . cgroup.procs cgroup.subtree_control cgroup.threads && cd /
echo "--- guarantees, as a plain user who was given a part of the hierarchy"
sh -c 'echo $$ > /sys/fs/cgroup/given/cgroup.procs; PYTHONPATH=/tmp/copy exec setpriv --reuid 65534 --regid 65534 --clear-groups \
    /usr/bin/python3 -B /tmp/table.py'
echo "--- guarantees, as a plain user who was given none"
PYTHONPATH=/tmp/copy setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 -B /tmp/table.py
echo o > /proc/sysrq-trigger
sleep 60
"""
TABLE = """
import asyncio
from sandbox.runner import shipped
async def main():
    for runner in shipped():
        report = await runner.probe()
        strengths = {str(name): strength.word for name, strength in report.guarantees.items()}
        print(runner.name, report.problem or strengths, flush=True)
        for name in ("memory", "pids", "cpu"):
            for found in [finding for each, finding in report.findings.items() if each == name]:
                print("   ", name, found.evidence, flush=True)
        await runner.aclose()
asyncio.run(main())
"""


def initial_files(kernel: Path, folder: Path) -> Path:
    """The guest's first file system: busybox, the modules that reach the machine's files, and what is to be done."""
    tree = folder / "tree"
    for name in ("bin", "modules", "host", "up", "merged"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin" / "busybox")
    for module in MODULES:
        shutil.copy(next((kernel / "lib/modules").glob(f"*/kernel/{module}.ko")), tree / "modules")
    names = " ".join(Path(module).name for module in MODULES)
    work = WORK.replace("REPOSITORY", str(ROOT)).replace("PYTHON ", f"{sys.executable} ")
    for name, text in (("init", INIT.replace("MODULES", names)), ("work.sh", work), ("table.py", TABLE)):
        (tree / name).write_text(text, encoding="utf-8")
        (tree / name).chmod(0o755)
    listed = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=listed.encode(), cwd=tree, capture_output=True, check=True
    )
    archive = folder / "initial"
    archive.write_bytes(packed.stdout)
    return archive


def main() -> None:
    """Boot, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="a linux-image package of Debian's, as apt-get download brings it")
    parser.add_argument("--seconds", type=int, default=1800)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bailiwick-kernel-") as made:
        folder = Path(made)
        subprocess.run(["dpkg", "-x", str(options.package), str(folder / "kernel")], check=True)
        kernel = folder / "kernel"
        share = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
        command = [
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "2048", "-smp", str(os.cpu_count() or 1),
            "-nographic", "-no-reboot", "-kernel", str(next((kernel / "boot").glob("vmlinuz-*"))),
            "-initrd", str(initial_files(kernel, folder)), "-append", "console=ttyS0 quiet panic=-1 loglevel=1",
            "-virtfs", share, "-net", "none",
        ]  # fmt: skip
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=options.seconds, check=True)


if __name__ == "__main__":
    main()
