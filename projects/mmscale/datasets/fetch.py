"""Fetches one large file over HTTP: resumes where it was cut, and hands over nothing that it can know not to be whole.

The bytes go to ``<name>.part``; beside it ``<name>.part.json`` remembers which version of which address they belong to
(ETag or Last-Modified), so that the rest of a file is never appended to the beginning of another. Only a file that has
its full length, where the server states one, and its checksum, where one is known, gets its final name. Without either
a connection that was cut looks like the file's end; then only unpacking finds out.
"""
import errno
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .convert.coco import write_json, write_text

__all__ = ['fetch', 'file_digest']

_CHUNK = 1 << 18
_PROGRESS = 1 << 16  # a connection that brings at least this much more than any before it was no failure
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_TROUBLE = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def fetch(url: str, target: str | Path, md5: str | None = None, retries: int = 5, backoff: float = 1.0,
          timeout: float = 30.0, space_factor: float = 1.0) -> Path:
    """Downloads ``url`` to ``target``.

    The file's SHA-256 is written to ``<target>.sha256`` (the format of ``sha256sum -c``). A file that is there already
    is checked against ``md5`` and that record, and not fetched again.

    Args:
        url (str): Address, http or https.
        target (str | Path): Where the file goes.
        md5 (str, optional): The publisher's MD5. Defaults to None, then only the length is checked, and nothing where
            the server states no length.
        retries (int): Failed connections in a row after which to give up; one that got further than any before it does
            not count. Defaults to 5.
        backoff (float): Seconds before the second try, doubled for each further one up to 30. Defaults to 1.0.
        timeout (float): Seconds without a byte after which a connection counts as cut. Defaults to 30.0.
        space_factor (float): Disk space to demand before starting, in lengths of the file. Defaults to 1.0.

    Returns:
        Path: ``target``.

    Raises:
        OSError: The server refuses, too many connections failed, or the disk is too small.
        ValueError: The file does not have the checksum it should have.
    """
    target = Path(target)
    if target.is_file():
        _verify_present(target, md5)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, url, may_trust_length=md5 is not None)
    failures, best = 0, part.size()
    while True:
        resumed = part.size() > 0
        try:
            _receive(url, part, timeout, space_factor)
        except _TROUBLE as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in _TRY_AGAIN:
                raise _refused(url, error) from error
            if part.size() >= best + _PROGRESS:
                failures = 0
            best = max(best, part.size())
            failures += 1
            if failures > retries:
                raise ConnectionError(f'{url}: gave up after {failures} failed connections, the last with: {error}; '
                                      f"'{part.path}' is kept, run the same command again to go on") from error
            time.sleep(min(30.0, backoff * 2**(failures - 1)))
            continue
        if md5 is None or (found := file_digest(part.path, 'md5')) == md5:
            break
        part.discard()
        if not resumed:  # a resumed file may have been pieced together wrongly: that deserves one fresh try
            raise ValueError(f'{url}: the MD5 of the file should be {md5}, but is {found}: the download was damaged or '
                             'the file at that address is another one; it was deleted')
    write_text(_record(target), f"{file_digest(part.path, 'sha256')}  {target.name}\n")
    part.finish()
    return target


def file_digest(path: str | Path, algorithm: str) -> str:
    """Hex digest of a file.

    Args:
        path (str | Path): The file.
        algorithm (str): A name that hashlib knows, for instance 'sha256'.

    Returns:
        str: The digest.
    """
    digest = hashlib.new(algorithm)
    with Path(path).open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def ensure_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises OSError where ``folder``'s disk has less than ``needed`` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC,
                      f"{purpose} needs {needed / 1e9:.2f} GB, but '{folder}' has only {free / 1e9:.2f} GB free")


@dataclass
class _Part:
    """The unfinished file and what is known about the version it belongs to.

    Args:
        target (Path): The file's final path.
        url (str): Its address.
        may_trust_length (bool): A checksum will judge the result, so bytes may be resumed even from a server that
            names no version.
    """
    target: Path
    url: str
    may_trust_length: bool

    def __post_init__(self) -> None:
        self.path = self.target.with_name(f'{self.target.name}.part')
        self.note = self.target.with_name(f'{self.target.name}.part.json')
        try:
            self.version = json.loads(self.note.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            self.version = {}
        if self.version.get('url') != self.url or not (self.validator or self.may_trust_length):
            self.discard()

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag, else the date."""
        etag = self.version.get('etag')
        return etag if etag and not etag.startswith('W/') else self.version.get('modified')

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.version = {}

    def begin(self, version: dict) -> None:
        """Starts from the first byte of this version."""
        self.discard()
        self.version = version
        write_json(self.note, version)

    def finish(self) -> None:
        os.replace(self.path, self.target)
        self.note.unlink(missing_ok=True)


def _receive(url: str, part: _Part, timeout: float, space_factor: float) -> None:
    """One connection; returns when the file is whole, raises one of _TROUBLE when it is not."""
    offset = part.size()
    headers = {'User-Agent': 'mmscale-download', 'Accept-Encoding': 'identity'}
    if offset and (part.validator or part.may_trust_length):
        headers['Range'] = f'bytes={offset}-'
        if part.validator:
            headers['If-Range'] = part.validator
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not offset:
            raise
        total = (error.headers.get('Content-Range') or '').rpartition('/')[2]
        if total == str(offset) and part.version.get('etag') in (None, error.headers.get('ETag')):
            return  # the last byte had arrived before the connection was cut
        part.discard()
        raise ConnectionResetError('the part on disk is not of the file on the server, starting over') from error
    with response:
        version = dict(url=url, etag=response.headers.get('ETag'), modified=response.headers.get('Last-Modified'))
        length = response.headers.get('Content-Length')
        total = None if length is None else int(length)
        if response.status == 206:
            begin = (response.headers.get('Content-Range') or '').partition(' ')[2].partition('-')[0]
            if begin != str(offset) or version != part.version:
                part.discard()
                raise ConnectionResetError('the file changed on the server, starting over')
            total = None if total is None else offset + total
        else:  # the whole file: a first try, a server without Range, or a file that changed
            part.begin(version)
            offset = 0
        if total is not None:
            ensure_space(part.path.parent, int(total * space_factor) - offset, url)
        _copy(response, part, offset, total)
    if total is not None and part.size() != total:
        raise ConnectionResetError(f'the connection was cut at byte {part.size()} of {total}')


def _copy(response: http.client.HTTPResponse, part: _Part, offset: int, total: int | None) -> None:
    bar = tqdm(desc=part.target.name, initial=offset, total=total, unit='B', unit_scale=True, unit_divisor=1024,
               disable=None)
    with bar, part.path.open('ab') as file:
        while chunk := response.read1(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _refused(url: str, error: urllib.error.HTTPError) -> OSError:
    if error.code in (404, 410):
        return FileNotFoundError(f'{url}: the server has no such file (HTTP {error.code}): the publisher moved it; '
                                 'docs/data.md names the publisher')
    return OSError(f'{url}: the server refuses it (HTTP {error.code} {error.reason})')


def _record(target: Path) -> Path:
    return target.with_name(f'{target.name}.sha256')


def _verify_present(target: Path, md5: str | None) -> None:
    """A file from an earlier run must still be what it was then; one that was placed by hand gets its record now."""
    if md5 is not None and (found := file_digest(target, 'md5')) != md5:
        raise ValueError(f"'{target}' should have the MD5 {md5}, but has {found}: delete it to fetch it again")
    record, found = _record(target), file_digest(target, 'sha256')
    if not record.is_file():
        write_text(record, f'{found}  {target.name}\n')
    elif (noted := record.read_text(encoding='utf-8').split(maxsplit=1)[:1]) != [found]:
        raise ValueError(f"'{target}' is not the file that was downloaded (its SHA-256 is {found}, '{record.name}' "
                         f"says {''.join(noted) or 'nothing'}): delete both to fetch it again")
