"""VisDrone-DET text to COCO json, on hand-made samples."""
import json
import warnings

import numpy as np
import pytest
from PIL import Image

from mmscale.datasets.convert import VISDRONE_CLASSES, convert_visdrone


def write_image(path, width=100, height=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def root(tmp_path):
    """Two training images: one with objects of every kind, one with an empty annotation file."""
    folder = tmp_path / 'VisDrone2019-DET-train'
    write_image(folder / 'images' / 'b.jpg')
    write_image(folder / 'images' / 'a.jpg', 60, 40)
    (folder / 'annotations').mkdir()
    (folder / 'annotations' / 'a.txt').write_text('')
    (folder / 'annotations' / 'b.txt').write_text('10,20,30,40,1,1,0,2\n'
                                                  '0,0,5,5,1,10,1,0,\n'  # a trailing comma, as it occurs
                                                  '\n'
                                                  '50,50,20,10,0,0,0,0\n'  # ignored region
                                                  '70,10,8,8,1,11,0,0\n'  # others
                                                  '5,60,6,6,0,4,0,0\n')  # score 0
    return tmp_path


def convert(root):
    summary, = convert_visdrone(root, splits=['train'])
    return summary, json.loads((root / 'annotations' / 'train.json').read_text())


def set_lines(root, *lines):
    (root / 'VisDrone2019-DET-train' / 'annotations' / 'b.txt').write_text('\n'.join(lines))


def test_boxes_ignored_regions_and_an_empty_annotation(root):
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # nothing here is worth a warning
        summary, coco = convert(root)
    assert coco['images'] == [
        dict(id=1, file_name='a.jpg', width=60, height=40, ignored_regions=[]),
        dict(id=2, file_name='b.jpg', width=100, height=80,
             ignored_regions=[[50, 50, 20, 10]]),
    ]
    assert coco['annotations'] == [
        dict(id=1, image_id=2, category_id=1, bbox=[10, 20, 30, 40], area=1200, iscrowd=0, truncation=0, occlusion=2),
        dict(id=2, image_id=2, category_id=10, bbox=[0, 0, 5, 5], area=25, iscrowd=0, truncation=1, occlusion=0),
        dict(id=3, image_id=2, category_id=4, bbox=[5, 60, 6, 6], area=36, iscrowd=1, truncation=0, occlusion=0),
    ]
    assert coco['categories'][0] == dict(id=1, name='pedestrian')
    assert coco['categories'][9] == dict(id=10, name='motor')
    assert len(VISDRONE_CLASSES) == 10
    assert (summary.images, summary.images_without_objects) == (2, 1)
    assert summary.boxes == dict.fromkeys(VISDRONE_CLASSES, 0) | dict(pedestrian=1, car=1, motor=1)
    assert summary.counts == {'ignored regions': 1, 'boxes of category 11 (others), dropped': 1,
                              'objects with score 0, not evaluated (iscrowd)': 1}
    assert 'train: 2 images (1 without objects), 3 boxes' in str(summary)


def test_pycocotools_reads_the_result(root):
    from pycocotools.coco import COCO
    convert(root)
    coco = COCO(str(root / 'annotations' / 'train.json'))
    assert len(coco.getImgIds()) == 2
    assert coco.loadAnns(coco.getAnnIds(catIds=[10]))[0]['bbox'] == [0, 0, 5, 5]


def test_boxes_without_area_and_outside_are_dropped_with_one_warning_each(root):
    set_lines(root, '10,10,0,5,1,1,0,0', '10,10,5,0,1,1,0,0', '100,10,5,5,1,1,0,0', '90,70,20,20,1,4,0,0',
              '-5,-5,10,10,1,4,0,0')
    with pytest.warns(UserWarning) as caught:
        summary, coco = convert(root)
    assert [annotation['bbox'] for annotation in coco['annotations']] == [[90, 70, 10, 10], [0, 0, 5, 5]]
    assert [annotation['area'] for annotation in coco['annotations']] == [100, 25]
    messages = sorted(str(warning.message).split(': ', 1)[1] for warning in caught)
    assert len(messages) == 3
    assert messages[0].startswith('1 boxes outside the image, dropped') and 'b.txt, line 3' in messages[0]
    assert messages[1].startswith('2 boxes clipped to the image') and 'b.txt, line 4' in messages[1]
    assert messages[2].startswith('2 boxes without area, dropped') and 'b.txt, line 1' in messages[2]
    assert summary.boxes['car'] == 2


@pytest.mark.parametrize('line, message', [
    ('1,2,3,4,1,1,0', r"b\.txt, line 2: expected 8 values .* found 7: '1,2,3,4,1,1,0'"),
    ('1,2,3,4,1,1,0,0,0', 'found 9'),
    ('1,2,x,4,1,1,0,0', r"b\.txt, line 2: width must be a number, but is 'x'"),
    ('1,2,nan,4,1,1,0,0', "width must be a number, but is 'nan'"),
    ('1,2,inf,4,1,1,0,0', "width must be a number, but is 'inf'"),
    ('1,2,3,4,1,12,0,0', r'b\.txt, line 2: category must be 0 .* but is 12'),
    ('1,2,3,4,1,1.5,0,0', 'but is 1.5'),
    ('1,2,3,4,1,-1,0,0', 'but is -1'),
])
def test_a_malformed_line_is_named(root, line, message):
    set_lines(root, '1,2,3,4,1,1,0,0', line)
    with pytest.raises(ValueError, match=message):
        convert_visdrone(root, splits=['train'])
    assert not (root / 'annotations').exists()


def test_an_error_keeps_the_old_result_and_leaves_no_temporary_file(root):
    _, before = convert(root)
    set_lines(root, 'nonsense')
    with pytest.raises(ValueError, match='line 1'):
        convert_visdrone(root, splits=['train'])
    assert json.loads((root / 'annotations' / 'train.json').read_text()) == before
    assert [path.name for path in (root / 'annotations').iterdir()] == ['train.json']


def test_one_broken_split_writes_none(root):
    (root / 'VisDrone2019-DET-val' / 'images').mkdir(parents=True)
    (root / 'VisDrone2019-DET-val' / 'annotations').mkdir()
    (root / 'VisDrone2019-DET-val' / 'annotations' / 'c.txt').write_text('')
    with pytest.raises(FileNotFoundError, match=r'c\.txt. has no image'):
        convert_visdrone(root)
    assert not (root / 'annotations').exists()


@pytest.mark.parametrize('cut', [0, 20, 0.5])
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_a_truncated_image_is_named(root, cut, suffix):
    path = root / 'VisDrone2019-DET-train' / 'images' / 'b.jpg'
    if suffix == '.png':  # a PNG under a JPEG's name is read for what it is
        Image.open(path).save(path, format='PNG')
    content = path.read_bytes()
    path.write_bytes(content[:cut if isinstance(cut, int) else int(len(content) * cut)])
    with pytest.raises(ValueError, match=r"image '.*b\.jpg' cannot be decoded"):
        convert_visdrone(root, splits=['train'])


def test_decode_finds_damage_in_the_middle(root):
    path = root / 'VisDrone2019-DET-train' / 'images' / 'b.jpg'
    Image.open(path).save(path, format='PNG')
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xff
    path.write_bytes(content)
    convert(root)  # header and end are whole, which is all that is looked at
    with pytest.raises(ValueError, match=r'b\.jpg. cannot be decoded'):
        convert_visdrone(root, splits=['train'], decode=True)


def test_padding_after_the_image_is_no_damage(root):
    path = root / 'VisDrone2019-DET-train' / 'images' / 'b.jpg'
    path.write_bytes(path.read_bytes() + b'\0' * 10000)
    assert convert(root)[0].images == 2


def test_size_follows_the_exif_orientation_as_opencv_does(root):
    import cv2
    path = root / 'VisDrone2019-DET-train' / 'images' / 'b.jpg'
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    assert cv2.imread(str(path)).shape == (100, 80, 3)
    with pytest.warns(UserWarning, match='clipped|outside'):
        set_lines(root, '0,0,100,10,1,1,0,0')
        _, coco = convert(root)
    assert (coco['images'][1]['width'], coco['images'][1]['height']) == (80, 100)


def test_missing_parts_are_named(root):
    folder = root / 'VisDrone2019-DET-train'
    with pytest.raises(FileNotFoundError, match='VisDrone2019-DET-val.*is missing: unpack'):
        convert_visdrone(root)
    (folder / 'annotations' / 'a.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r"image '.*a\.jpg' has no annotation file"):
        convert_visdrone(root, splits=['train'])


def test_a_file_that_is_no_text_is_named(root):
    (root / 'VisDrone2019-DET-train' / 'annotations' / 'b.txt').write_bytes(b'\xff\xfe1,2')
    with pytest.raises(ValueError, match=r"b\.txt' is not a text file in UTF-8"):
        convert_visdrone(root, splits=['train'])
