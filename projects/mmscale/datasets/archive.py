"""Unpacks zip and tar archives without trusting them, and without leaving anything half unpacked.

An archive is unpacked into a temporary folder beside its destination and moved in place when it is complete: folder by
folder where the destination has none of that name, else file by file. A member that would land outside the destination
ends the whole thing.
"""
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from .fetch import ensure_space

__all__ = ['DamagedArchiveError', 'extract']


class DamagedArchiveError(ValueError):
    """An archive that was cut or altered, so that another download may help."""


def extract(archive: str | Path, destination: str | Path, inside: str = '', last: Sequence[str] = ()) -> None:
    """Unpacks an archive.

    Args:
        archive (str | Path): A ``.zip`` or ``.tar`` file (compressed or not).
        destination (str | Path): Folder that receives the content; made if absent.
        inside (str): Folder inside the archive whose content is wanted. Defaults to '', everything.
        last (Sequence[str]): Paths under the destination that are moved in place after all others, so that their
            presence proves that the archive was unpacked wholly. Defaults to ().

    Raises:
        DamagedArchiveError: The archive is damaged.
        ValueError: It holds an unsafe member, or lacks ``inside``.
        OSError: The disk is too small.
    """
    archive, destination = Path(archive), Path(destination)
    destination.mkdir(parents=True, exist_ok=True)
    unfinished = destination / f'.{archive.name}.tmp'
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir()
    try:
        unpack = _unpack_zip if archive.suffix == '.zip' else _unpack_tar
        try:
            unpack(archive, unfinished)
        except (zipfile.BadZipFile, zlib.error, tarfile.ReadError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise DamagedArchiveError(f"'{archive}' is damaged ({reason}): delete it and fetch it again") from error
        content = unfinished / inside
        if not content.is_dir():
            raise ValueError(f"'{archive}' has no folder '{inside}': it is not the archive that was expected")
        _move_in_place(content, destination, {Path(path) for path in last})
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            name = PurePosixPath(member.filename)
            outside = name.is_absolute() or '..' in name.parts or PureWindowsPath(member.filename).anchor
            if outside or '\\' in member.filename or stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"'{archive}' holds the unsafe member '{member.filename}': it was not unpacked")
        ensure_space(folder, sum(member.file_size for member in members), f"unpacking '{archive}'")
        for member in tqdm(members, desc=f'unpack {archive.name}', unit='file', disable=None):
            file.extract(member, folder)  # checks the CRC of every member


def _unpack_tar(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, 'data_filter'):
        raise RuntimeError('this Python cannot unpack tar archives safely: update to 3.10.12, 3.11.4, 3.12 or later')
    with tarfile.open(archive) as file:
        members = file.getmembers()
        ensure_space(folder, sum(member.size for member in members), f"unpacking '{archive}'")
        for member in tqdm(members, desc=f'unpack {archive.name}', unit='file', disable=None):
            try:
                file.extract(member, folder, filter='data')
            except tarfile.FilterError as error:
                raise ValueError(f"'{archive}' holds the unsafe member '{member.name}' ({error}): "
                                 'it was not unpacked') from error


def _move_in_place(source: Path, destination: Path, last: set[Path]) -> None:
    """Moves a tree, merging it with what is there; a file that exists is replaced."""
    final = []

    def move(path: Path) -> None:
        relative = path.relative_to(source)
        target = destination / relative
        if path.is_dir() and not path.is_symlink() and target.is_dir():
            for child in sorted(path.iterdir()):
                move(child)
        elif relative in last:
            final.append((path, target))
        else:
            os.replace(path, target)

    for child in sorted(source.iterdir()):
        move(child)
    for path, target in final:
        os.replace(path, target)
