"""Downloads against a real HTTP server on the loopback address that misbehaves on request."""
import hashlib
import http.server
import io
import runpy
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest

from mmscale.datasets import download as download_module
from mmscale.datasets.archive import extract
from mmscale.datasets.download import CATALOGUE, Archive, DataSet, describe, download
from mmscale.datasets.fetch import ensure_space, fetch

BODY = bytes(range(256)) * 1200  # 307,200 bytes
FAST = dict(backoff=0.01, timeout=5.0)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.body`` and obeys the switches of the server."""

    def do_GET(self):
        state = self.server
        state.requests.append(dict(self.headers))
        status = state.statuses.pop(0) if state.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        body, begin = state.body, 0
        wanted = self.headers.get('Range')
        current = self.headers.get('If-Range') in (None, state.etag) or state.ignore_if_range
        if wanted and state.ranges and current:
            begin = int(wanted.removeprefix('bytes=').removesuffix('-'))
            if begin >= len(body):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(body)}')
                self.send_header('ETag', state.etag)
                self.send_header('Content-Length', '0')
                self.end_headers()
                return
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {begin}-{len(body) - 1}/{len(body)}')
        else:
            self.send_response(200)
        if state.etag:
            self.send_header('ETag', state.etag)
        if state.length:
            self.send_header('Content-Length', str(len(body) - begin))
        self.end_headers()
        cut = state.cuts.pop(0) if state.cuts else None
        self.wfile.write(body[begin:] if cut is None else body[begin:begin + cut])
        if state.after:
            state.after.pop(0)(state)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.body, server.etag, server.ranges, server.length, server.ignore_if_range = BODY, '"one"', True, True, False
    server.statuses, server.cuts, server.after, server.requests = [], [], [], []
    server.url = f'http://127.0.0.1:{server.server_port}/data.bin'
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def ranges(server):
    return [headers.get('Range') for headers in server.requests]


def test_a_whole_file_and_its_record(server, tmp_path):
    target = fetch(server.url, tmp_path / 'sub' / 'data.bin', **FAST)
    assert target.read_bytes() == BODY
    assert names(target.parent) == ['data.bin', 'data.bin.sha256']
    assert (target.parent / 'data.bin.sha256').read_text() == f'{hashlib.sha256(BODY).hexdigest()}  data.bin\n'


def test_a_cut_connection_is_resumed_where_it_was_cut(server, tmp_path):
    server.cuts = [100_000, 50_000]
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY
    assert ranges(server) == [None, 'bytes=100000-', 'bytes=150000-']
    assert server.requests[1]['If-Range'] == '"one"'


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.cuts = [100_000, 0]
    with pytest.raises(ConnectionError, match=r'gave up after 2 failed connections.*byte 100000 of 307200.*is kept'):
        fetch(server.url, tmp_path / 'data.bin', retries=1, **FAST)
    assert names(tmp_path) == ['data.bin.part', 'data.bin.part.json']
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY
    assert ranges(server)[-1] == 'bytes=100000-'


def test_the_number_of_failures_without_progress_is_limited(server, tmp_path):
    server.cuts = [1000] * 50
    server.ranges = False
    with pytest.raises(ConnectionError, match='gave up after 4 failed'):
        fetch(server.url, tmp_path / 'data.bin', retries=3, **FAST)
    assert len(server.requests) == 4


def test_progress_renews_the_patience(server, tmp_path):
    server.cuts = [70_000] * 4
    assert fetch(server.url, tmp_path / 'data.bin', retries=1, **FAST).read_bytes() == BODY


def test_a_server_that_ignores_range(server, tmp_path):
    server.ranges = False
    server.cuts = [100_000]
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY
    assert ranges(server) == [None, 'bytes=100000-']


@pytest.mark.parametrize('ignore_if_range', [False, True])
def test_a_file_that_changes_between_attempts(server, tmp_path, ignore_if_range):
    other = BODY[::-1]

    def change(state):
        state.body, state.etag = other, '"two"'

    server.cuts, server.after, server.ignore_if_range = [100_000], [change], ignore_if_range
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == other


def test_without_a_version_or_a_checksum_nothing_is_resumed(server, tmp_path):
    server.etag = None
    server.cuts = [100_000]
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY
    assert ranges(server) == [None, None]


def test_with_a_checksum_resuming_needs_no_version(server, tmp_path):
    server.etag = None
    server.cuts = [100_000]
    md5 = hashlib.md5(BODY).hexdigest()
    assert fetch(server.url, tmp_path / 'data.bin', md5, **FAST).read_bytes() == BODY
    assert ranges(server) == [None, 'bytes=100000-']


def test_a_part_pieced_together_wrongly_is_fetched_afresh(server, tmp_path):
    """No version, so the change goes unnoticed until the checksum: then everything is fetched again, once."""
    def change(state):
        state.body = BODY

    server.etag, server.body = None, BODY[::-1]
    server.cuts, server.after = [100_000], [change]
    md5 = hashlib.md5(BODY).hexdigest()
    assert fetch(server.url, tmp_path / 'data.bin', md5, **FAST).read_bytes() == BODY
    assert ranges(server) == [None, 'bytes=100000-', None]


def test_a_part_that_is_complete_already(server, tmp_path):
    server.cuts = [100_000, 0]
    with pytest.raises(ConnectionError):
        fetch(server.url, tmp_path / 'data.bin', retries=1, **FAST)
    (tmp_path / 'data.bin.part').write_bytes(BODY)
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.cuts = [100_000, 0]
    with pytest.raises(ConnectionError):
        fetch(server.url, tmp_path / 'data.bin', retries=1, **FAST)
    (tmp_path / 'data.bin.part').write_bytes(BODY + b'more')
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY


def test_a_part_of_another_address_is_thrown_away(server, tmp_path):
    server.cuts = [100_000, 0]
    with pytest.raises(ConnectionError):
        fetch(server.url, tmp_path / 'data.bin', retries=1, **FAST)
    count = len(server.requests)
    assert fetch(server.url + '?mirror', tmp_path / 'data.bin', **FAST).read_bytes() == BODY
    assert ranges(server)[count:] == [None]


def test_a_server_that_names_no_length(server, tmp_path):
    server.length = False
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY


def test_404_is_said_at_once(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(FileNotFoundError, match=r'data\.bin: the server has no such file \(HTTP 404\)'):
        fetch(server.url, tmp_path / 'data.bin', **FAST)
    assert len(server.requests) == 1 and names(tmp_path) == []


def test_403_is_said_at_once(server, tmp_path):
    server.statuses = [403]
    with pytest.raises(OSError, match='refuses it .HTTP 403 Forbidden'):
        fetch(server.url, tmp_path / 'data.bin', **FAST)


def test_503_is_tried_again(server, tmp_path):
    server.statuses = [503, 503]
    assert fetch(server.url, tmp_path / 'data.bin', **FAST).read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    wanted, found = '0' * 32, hashlib.md5(BODY).hexdigest()
    with pytest.raises(ValueError, match=f'MD5 of the file should be {wanted}, but is {found}'):
        fetch(server.url, tmp_path / 'data.bin', wanted, **FAST)
    assert names(tmp_path) == [] and len(server.requests) == 1


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(ConnectionError, match='gave up after 2 failed connections'):
        fetch('http://127.0.0.1:9/data.bin', tmp_path / 'data.bin', retries=1, **FAST)


def test_what_is_there_is_not_fetched_again_but_checked(server, tmp_path):
    target = fetch(server.url, tmp_path / 'data.bin', **FAST)
    fetch(server.url, target, hashlib.md5(BODY).hexdigest(), **FAST)
    assert len(server.requests) == 1
    target.write_bytes(b'changed')
    with pytest.raises(ValueError, match='is not the file that was downloaded'):
        fetch(server.url, target, **FAST)
    with pytest.raises(ValueError, match='should have the MD5'):
        fetch(server.url, target, hashlib.md5(BODY).hexdigest(), **FAST)


def test_disk_space_is_looked_at_before_the_first_byte(server, tmp_path):
    with pytest.raises(OSError, match=r'data\.bin needs .* GB, but .* has only .* GB free'):
        fetch(server.url, tmp_path / 'data.bin', space_factor=1e12, **FAST)
    assert not (tmp_path / 'data.bin').exists()
    ensure_space(tmp_path, 1, 'nothing')


# --- archives -------------------------------------------------------------------------------------------------------


def make_zip(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def make_tar(path, members):
    with tarfile.open(path, 'w') as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize('make, name', [(make_zip, 'a.zip'), (make_tar, 'a.tar')])
def test_extract_takes_a_folder_and_merges(tmp_path, make, name):
    archive = make(tmp_path / name, {'top/one/new.txt': b'new', 'top/two/x.txt': b'x', 'other/y.txt': b'y'})
    out = tmp_path / 'out'
    (out / 'one').mkdir(parents=True)
    (out / 'one' / 'old.txt').write_bytes(b'old')
    extract(archive, out, inside='top')
    assert names(out) == ['one', 'two'] and names(out / 'one') == ['new.txt', 'old.txt']
    assert (out / 'two' / 'x.txt').read_bytes() == b'x'


@pytest.mark.parametrize('make, name', [(make_zip, 'a.zip'), (make_tar, 'a.tar')])
@pytest.mark.parametrize('member', ['../evil.txt', 'a/../../evil.txt', '/evil.txt'])
def test_a_member_outside_the_destination_is_refused(tmp_path, make, name, member):
    archive = make(tmp_path / name, {'good.txt': b'good', member: b'evil'})
    if make is make_tar and member == '/evil.txt':  # Python's filter strips the slash, which is as safe
        extract(archive, tmp_path / 'out')
        assert names(tmp_path / 'out') == ['evil.txt', 'good.txt']
        return
    with pytest.raises(ValueError, match=f"holds the unsafe member '{member}'"):
        extract(archive, tmp_path / 'out')
    assert names(tmp_path) == [name, 'out'] and names(tmp_path / 'out') == []


def test_links_out_of_the_destination_are_refused(tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as file:
        link = tarfile.TarInfo('link')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc'
        file.addfile(link)
    with pytest.raises(ValueError, match="unsafe member 'link'"):
        extract(tmp_path / 'a.tar', tmp_path / 'out')
    info = zipfile.ZipInfo('link')
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
        file.writestr(info, '/etc')
    with pytest.raises(ValueError, match="unsafe member 'link'"):
        extract(tmp_path / 'a.zip', tmp_path / 'out')
    assert names(tmp_path / 'out') == []


@pytest.mark.parametrize('make, name', [(make_zip, 'a.zip'), (make_tar, 'a.tar')])
@pytest.mark.parametrize('damage', ['cut', 'empty', 'flipped'])
def test_a_damaged_archive_leaves_nothing(tmp_path, make, name, damage):
    archive = make(tmp_path / name, {'a.bin': BODY, 'b.bin': BODY[::-1]})
    content = bytearray(archive.read_bytes())
    if damage == 'flipped':
        position = 100 if name == 'a.zip' else 150  # inside the first member's data, and its header's checksum
        content[position] ^= 0xff
    archive.write_bytes(content[:len(content) // 2] if damage == 'cut' else b'' if damage == 'empty' else content)
    with pytest.raises(ValueError, match=r"is damaged \(.*\): delete it and fetch it again"):
        extract(archive, tmp_path / 'out')
    assert names(tmp_path / 'out') == []


def test_what_a_killed_run_left_is_cleared(tmp_path):
    (tmp_path / 'out' / '.a.zip.tmp').mkdir(parents=True)
    (tmp_path / 'out' / '.a.zip.tmp' / 'half.txt').write_text('half')
    extract(make_zip(tmp_path / 'a.zip', {'x.txt': b''}), tmp_path / 'out')
    assert names(tmp_path / 'out') == ['x.txt']


def test_an_archive_without_the_folder(tmp_path):
    with pytest.raises(ValueError, match="has no folder 'top'"):
        extract(make_zip(tmp_path / 'a.zip', {'x': b''}), tmp_path / 'out', inside='top')


def test_the_proof_is_moved_last(tmp_path, monkeypatch):
    """A merge that breaks off half way must not look complete to the next run."""
    archive = make_zip(tmp_path / 'a.zip', {'lists/proof.txt': b'', 'lists/z.txt': b'', 'pictures/1.jpg': b''})
    for folder in ('lists', 'pictures'):
        (tmp_path / 'out' / folder).mkdir(parents=True)
    moved = []
    replace = download_module.extract.__globals__['os'].replace
    monkeypatch.setattr('os.replace', lambda a, b: (moved.append(b.name), replace(a, b)))
    extract(archive, tmp_path / 'out', last=['lists/proof.txt'])
    assert moved == ['z.txt', '1.jpg', 'proof.txt']


# --- the catalogue --------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """A data set of one archive with a mirror, served from the loopback address."""
    server.body = make_zip(tmp_path / 'toy.zip', {'toy-1/images/1.jpg': BODY, 'toy-1/list.txt': b'1'}).read_bytes()
    base = server.url.removesuffix('/data.bin')
    archive = Archive('all', (f'{base}/toy.zip', f'{base}/mirror/toy.zip'), 'toy', ('list.txt', 'images'), '1 KB',
                      hashlib.md5(server.body).hexdigest(), 'toy-1')
    monkeypatch.setitem(CATALOGUE, 'toy', DataSet('Toy', (archive, ), then='convert {root}'))
    return server


def test_download_verifies_unpacks_and_skips(toy, tmp_path, capsys):
    toy.cuts = [10]
    assert download('toy', tmp_path / 'data', **FAST)
    assert names(tmp_path / 'data' / 'toy') == ['images', 'list.txt']
    assert names(tmp_path / 'data' / 'downloads') == ['toy.zip', 'toy.zip.sha256']
    count = len(toy.requests)
    assert download('toy', tmp_path / 'data', **FAST)
    assert len(toy.requests) == count
    assert 'in place' in capsys.readouterr().out and '(in place)' in describe('toy', tmp_path / 'data')


def test_download_falls_back_on_the_mirror(toy, tmp_path, capsys):
    toy.statuses = [404]
    assert download('toy', tmp_path / 'data', delete_archives=True, **FAST)
    assert 'trying the next address' in capsys.readouterr().out
    assert names(tmp_path / 'data' / 'downloads') == ['toy.zip.sha256']


def test_download_does_not_try_a_mirror_when_the_disk_is_full(toy, tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda path: type('Usage', (), dict(free=10)))
    with pytest.raises(OSError, match='GB free'):
        download('toy', tmp_path / 'data', **FAST)
    assert len(toy.requests) == 1


def test_an_interrupted_unpacking_is_done_again(toy, tmp_path, monkeypatch):
    def explode(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('mmscale.datasets.archive._move_in_place', explode)
        download('toy', tmp_path / 'data', **FAST)
    assert names(tmp_path / 'data' / 'toy') == []
    assert download('toy', tmp_path / 'data', **FAST)
    assert len(toy.requests) == 1 and names(tmp_path / 'data' / 'toy') == ['images', 'list.txt']


def test_a_damaged_archive_is_deleted_and_fetched_afresh(toy, tmp_path, monkeypatch):
    """No length, no checksum: a cut connection looks like the end, and only unpacking finds out."""
    archive, = CATALOGUE['toy'].archives
    monkeypatch.setitem(CATALOGUE, 'toy', DataSet('Toy', (replace(archive, md5=None, urls=archive.urls[:1]), )))
    toy.length, toy.cuts = False, [len(toy.body) // 2]
    with pytest.raises(ValueError, match=r"toy\.zip' is damaged \(.*\) and was deleted: run the same command again"):
        download('toy', tmp_path / 'data', **FAST)
    assert names(tmp_path / 'data' / 'downloads') == [] and names(tmp_path / 'data' / 'toy') == []
    assert download('toy', tmp_path / 'data', **FAST)
    assert names(tmp_path / 'data' / 'toy') == ['images', 'list.txt']


@pytest.mark.parametrize('name', sorted(name for name, item in CATALOGUE.items() if not item.archives))
def test_by_hand_says_what_to_do(name, tmp_path, capsys):
    assert not download(name, tmp_path)
    text = capsys.readouterr().out
    assert '1. ' in text and str(tmp_path) in text and '{root}' not in text
    for path in CATALOGUE[name].proof:
        (tmp_path / path).mkdir(parents=True)
    assert download(name, tmp_path)
    assert 'in place' in capsys.readouterr().out


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match=r"there is no data set 'kitti'; there are \['bccd', "):
        download('kitti', tmp_path)
    with pytest.raises(ValueError, match=r"coco has no archive \['test'\]; it has \['annotations', 'val2017'"):
        download('coco', tmp_path, only=['test'])


def test_the_catalogue_is_sound():
    for data_set in CATALOGUE.values():
        for archive in data_set.archives:
            assert archive.proof and all(url.startswith('http') for url in archive.urls)
            assert archive.md5 is None or len(archive.md5) == 32
            assert archive.md5 or len(archive.urls) == 1  # a mirror only where a checksum guards it


def test_the_command_line(toy, repo, tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(repo / 'tools' / 'data' / 'download.py'))['main']

    def call(*arguments):
        monkeypatch.setattr('sys.argv', ['download.py', *arguments, '--root', str(tmp_path / 'data')])
        return main()

    assert call('--list') == 0 and 'MD5 c52e279531787c972589f7e41ab4ae64' in capsys.readouterr().out
    assert call('cityscapes') == 2 and 'Register' in capsys.readouterr().out
    toy.statuses = [404, 404]
    assert call('toy') == 1 and 'error: ' in capsys.readouterr().err
    assert call('toy') == 0 and 'next: convert' in capsys.readouterr().out


def test_bccd_is_in_place(bccd_root, capsys):
    assert download('bccd', bccd_root.parent)
    assert 'in place' in capsys.readouterr().out
