"""NWPU VHR-10 text to COCO json, on hand-made samples."""
import json
import runpy
import warnings

import numpy as np
import pytest
from PIL import Image

from mmscale.datasets.convert import NWPU_CLASSES, convert_nwpu, split_names


@pytest.fixture
def root(tmp_path):
    """Ten images of 60x50 with one box each, in the publisher's spelling."""
    (tmp_path / 'positive image set').mkdir()
    (tmp_path / 'ground truth').mkdir()
    picture = Image.fromarray(np.zeros((50, 60, 3), np.uint8))
    for i in range(1, 11):
        picture.save(tmp_path / 'positive image set' / f'{i:03d}.jpg')
        (tmp_path / 'ground truth' / f'{i:03d}.txt').write_text(f'(  5, 10),( 25,40),{i} \n\n')
    return tmp_path


def load(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def set_lines(root, *lines):
    (root / 'ground truth' / '003.txt').write_text('\n'.join(lines))


def test_boxes_classes_and_split(root):
    train, val = convert_nwpu(root)
    assert (train.images, val.images) == (7, 3)
    coco = {split: load(root, split) for split in ('train', 'val')}
    names = {split: [image['file_name'] for image in coco[split]['images']] for split in coco}
    assert sorted(names['train'] + names['val']) == [f'{i:03d}.jpg' for i in range(1, 11)]
    for document in coco.values():
        assert [category['name'] for category in document['categories']] == list(NWPU_CLASSES)
        for image, annotation in zip(document['images'], document['annotations'], strict=True):
            number = int(image['file_name'][:3])
            assert (image['width'], image['height']) == (60, 50)
            assert annotation['category_id'] == number  # image i holds one object of class i
            assert (annotation['bbox'], annotation['area']) == ([5, 10, 20, 30], 600)
    assert (root / 'annotations' / 'val.txt').read_text().split() == [name[:3] for name in names['val']]


def test_the_split_depends_on_the_seed_alone():
    names = [f'{i:03d}' for i in range(1, 651)]
    train, val = split_names(names)
    assert (len(train), len(val)) == (455, 195)
    assert split_names(reversed(names)) == (train, val)
    assert train[:6] == ['001', '003', '005', '006', '009', '010']  # frozen: figures depend on it
    assert split_names(names, seed=1) != (train, val)
    assert len(set(split_names(names[:-1])[0]) - set(train)) <= 1  # one image less moves hardly any other


@pytest.mark.parametrize('ratio', [0, 1, -0.5, 1.5])
def test_a_ratio_outside_its_range(root, ratio):
    with pytest.raises(ValueError, match=f'train_ratio must lie between 0 and 1, but is {ratio}'):
        convert_nwpu(root, train_ratio=ratio)


def test_a_ratio_that_leaves_a_split_empty(root):
    with pytest.raises(ValueError, match='train_ratio 0.01 of 10 images leaves one split empty'):
        convert_nwpu(root, train_ratio=0.01)


def test_given_lists(root, tmp_path):
    (tmp_path / 't.txt').write_text('001\n002.jpg\n')
    (tmp_path / 'v.txt').write_text('010\n')
    with pytest.warns(UserWarning, match=r'7 images are in neither list \(the first: 003\)'):
        train, val = convert_nwpu(root, train_list=tmp_path / 't.txt', val_list=tmp_path / 'v.txt')
    assert (train.images, val.images) == (2, 1)
    assert load(root, 'val')['images'][0]['file_name'] == '010.jpg'


@pytest.mark.parametrize('train, val, message', [
    ('001\n999\n', '002\n', r"t\.txt, line 2: there is no image '999'"),
    ('001\n001.jpg\n', '002\n', r"t\.txt, line 2: image '001.jpg' is listed twice, first in line 1"),
    ('001\n002\n', '002\n', r"must not share images, but share \['002'\]"),
])
def test_wrong_lists(root, tmp_path, train, val, message):
    (tmp_path / 't.txt').write_text(train)
    (tmp_path / 'v.txt').write_text(val)
    with pytest.raises(ValueError, match=message):
        convert_nwpu(root, train_list=tmp_path / 't.txt', val_list=tmp_path / 'v.txt')


def test_one_list_alone(root):
    with pytest.raises(ValueError, match='train_list and val_list must be given together'):
        convert_nwpu(root, train_list='t.txt')
    with pytest.raises(FileNotFoundError, match=r"list 't\.txt' does not exist"):
        convert_nwpu(root, train_list='t.txt', val_list='v.txt')


def test_degenerate_outside_and_clipped_boxes(root):
    set_lines(root, '(5,5),(5,9),1', '(9,9),(5,5),1', '(60,0),(70,9),1', '(50,40),(70,60),2')
    with pytest.warns(UserWarning) as caught:
        train, val = convert_nwpu(root)
    counts = train.counts + val.counts
    assert counts == {'boxes without area, dropped': 2, 'boxes outside the image, dropped': 1,
                      'boxes clipped to the image': 1}
    assert len(caught) == 3 and all(r'003.txt, line ' in str(warning.message) for warning in caught)
    boxes = [annotation['bbox'] for split in ('train', 'val') for annotation in load(root, split)['annotations']]
    assert [50, 40, 10, 10] in boxes


@pytest.mark.parametrize('line, message', [
    ('(1,2),(3,4)', r"003\.txt, line 2: expected '\(x1,y1\),\(x2,y2\),class', found '\(1,2\),\(3,4\)'"),
    ('1,2,3,4,5', 'expected'),
    ('(1,2),(3,4),5,6', 'expected'),
    ('(1,2),(x,4),5', r"003\.txt, line 2: x2 must be a number, but is 'x'"),
    ('(1,2),(3,4),11', r'003\.txt, line 2: class must be a number from 1 to 10, but is 11'),
    ('(1,2),(3,4),0', 'but is 0'),
    ('(1,2),(3,4),ship', "class must be a number, but is 'ship'"),
])
def test_a_malformed_line_is_named(root, line, message):
    set_lines(root, '(1,2),(3,4),5', line)
    with pytest.raises(ValueError, match=message):
        convert_nwpu(root)
    assert not (root / 'annotations').exists()


def test_an_empty_annotation_is_an_image_without_objects(root):
    set_lines(root)
    train, val = convert_nwpu(root)
    assert train.images + val.images == 10
    assert train.images_without_objects + val.images_without_objects == 1


def test_the_command_line(root, repo, monkeypatch, capsys):
    main = runpy.run_path(str(repo / 'tools' / 'data' / 'convert.py'))['main']
    monkeypatch.setattr('warnings.showwarning', warnings.showwarning)  # put back afterwards
    monkeypatch.setattr('sys.argv', ['convert.py', 'nwpu', '--root', str(root), '--train-ratio', '0.5'])
    assert main() == 0 and 'NWPU VHR-10 val: 5 images' in capsys.readouterr().out
    set_lines(root, 'nonsense')
    assert main() == 1 and '003.txt, line 1: expected' in capsys.readouterr().err


def test_missing_and_truncated_files_are_named(root):
    image = root / 'positive image set' / '003.jpg'
    content = image.read_bytes()
    image.write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match=r"image '.*003\.jpg' cannot be decoded"):
        convert_nwpu(root)
    image.unlink()
    with pytest.raises(FileNotFoundError, match=r"003\.txt' has no image"):
        convert_nwpu(root)
    image.write_bytes(content)
    (root / 'ground truth' / '003.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r"003\.jpg' has no annotation file"):
        convert_nwpu(root)
    with pytest.raises(FileNotFoundError, match="positive image set' is missing"):
        convert_nwpu(root / 'nowhere')
