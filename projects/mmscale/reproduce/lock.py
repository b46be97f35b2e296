"""A lock that no crash can leave behind."""

import os
import socket
from pathlib import Path

__all__ = ['RunLock']


class RunLock:
    """A lock that the system releases when its last holder dies, so that it never has to be found stale.

    It is a ``flock`` on a file that stays; the holder's process and machine stand in the file for whoever finds it
    taken. A child process that inherits ``fd`` holds the lock too.

    Args:
        path (Path): The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.fd = Path(path), None

    def acquire(self) -> bool:
        """Take the lock if it is free; makes the file and its folder.

        Returns:
            bool: Whether it is ours now.
        """
        import fcntl  # not on Windows, where reports can still be made

        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.write(fd, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        return True

    def release(self) -> None:
        """Let go; a child that inherited the lock keeps it."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def holder(self) -> str | None:
        """Who holds it, None if nobody does; changes nothing."""
        import fcntl

        if not self.path.is_file():
            return None
        with self.path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or 'another process'
        return None
