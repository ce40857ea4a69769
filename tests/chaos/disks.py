"""A small disk of its own, which can be filled up and freed again."""

import errno
import os
import shutil
import subprocess
from pathlib import Path


def may_mount() -> bool:
    """Say whether this process may try: only root mounts."""
    return os.geteuid() == 0


class SmallDisk:
    """A tmpfs of some MiB on a folder; a plain folder, never filled, where mounting is not allowed."""

    def __init__(self, folder: Path, *, mib: int) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        options = f"size={mib}m,mode=1777"
        self.is_mounted = may_mount() and _runs("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave no byte free, however often something is deleted while this is called."""
        assert self.is_mounted, "only a small disk of its own is filled"
        with self._ballast.open("ab") as file:
            while (free := shutil.disk_usage(self.folder).free) > 0:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)
                except OSError as error:  # somebody else took a part of it: look again
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount it; what still uses it keeps it until it ends."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0
