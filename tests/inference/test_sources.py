"""Which files inputs stand for, and what their pictures are called."""

from pathlib import Path

import pytest

from mmscale.engine.cli import UsageError
from mmscale.inference.outputs import PictureFolder, picture_names
from mmscale.inference.sources import find_sources


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ('p/b.jpg', 'p/a.JPG', 'p/clip.MP4', 'p/.hidden.jpg', 'p/notes.txt', 'p/deep/a.jpg', 'p/.dir/x.jpg',
                 'q/a.jpg', 'q/image[1].png', 'none/readme.md'):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs, **options):
    return [source.name for source in find_sources(inputs, **options)]


def test_folder_is_sorted_and_flat_unless_asked(tree):
    assert names('p') == ['a.JPG', 'b.jpg', 'clip.MP4']
    assert names('p', recursive=True) == ['a.JPG', 'b.jpg', 'clip.MP4', 'deep/a.jpg']
    assert [source.is_video for source in find_sources(['p'])] == [False, False, True]


def test_globs(tree):
    assert names('*/a.jpg') == ['q/a.jpg']
    assert names('p/**/*.jpg') == ['b.jpg', 'deep/a.jpg']
    assert names('p/*') == ['a.JPG', 'b.jpg', 'clip.MP4']
    assert names(str(tree / 'p' / '[ab].*')) == ['a.JPG', 'b.jpg']
    assert names('q/image[1].png') == ['image[1].png']  # a file's own name is no glob


def test_several_inputs_share_a_root_and_come_once(tree):
    assert names('q/a.jpg', 'p/deep', 'q') == ['q/a.jpg', 'p/deep/a.jpg', 'q/image[1].png']
    assert names('p/b.jpg', 'p', './p/../p/b.jpg') == ['b.jpg', 'a.JPG', 'clip.MP4']
    assert names('p/notes.txt') == ['notes.txt']  # named by the user, so it is tried


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('nowhere', "input 'nowhere' does not exist"),
        ('nowhere/*.jpg', "input 'nowhere/\\*.jpg' matches no image or video"),
        ('none', "folder 'none' has no image or video .*webm, .wmv\\)$"),
        ('.', "folder '.' has no image or video .*; --recursive finds those below it"),
    ],
)
def test_nothing_found(tree, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        find_sources([text])


def test_own_pictures_are_no_inputs(tree):
    assert names('p', recursive=True, own_pictures='p/deep') == ['a.JPG', 'b.jpg', 'clip.MP4']
    with pytest.raises(UsageError, match='choose another --out-dir'):
        find_sources(['p/deep'], own_pictures='p/deep')
    with pytest.raises(UsageError, match="picture 'q/a.jpg' would replace an input"):
        PictureFolder(Path('q'), find_sources(['q/a.jpg']))


def test_pictures_never_share_a_name(tree):
    for name in ('x.mkv', 'x.mkv.mp4', 'y.ppm', 'deep.mkv'):
        (tree / 'q' / name).touch()
    (tree / 'q' / 'y.ppm.png').touch()
    made = list(picture_names(find_sources(['q', 'p'], recursive=True)).values())
    assert len(set(made)) == len(made)
    assert 'q/x.mkv.mp4.mp4' in made and 'q/y.ppm.png.png' in made and 'q/deep.mkv.mp4' in made
    assert 'p/clip.MP4' in made and 'p/deep/a.jpg' in made and 'q/a.jpg' in made
