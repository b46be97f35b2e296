"""Micro RGB UAV to COCO json, on hand-made videos in every layout that is read."""
import json
import os
import runpy
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmscale.datasets.convert import convert_micro_uav
from mmscale.datasets.convert.micro_uav_source import LAYOUTS
from mmscale.registry import DATASETS

from .tiny import voc_xml, write_image

WIDTH, HEIGHT = 64, 48
SIZES = dict(v1=3, v2=4, v10=3)  # videos and their frames


def box_of(video, index):
    """The drone of a frame, none in the second frame of each video."""
    return None if index == 1 else [3 * index + len(video), 40 - 3 * index, 3 + index, 2]


def yolo_line(box, width=WIDTH, height=HEIGHT):
    x, y, w, h = box
    return f'0 {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}\n'


def annotate(folder, video, count, layout, first=1, stem='{:04d}'):
    """Writes a video's annotations; frames are named by ``stem`` from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes = [box_of(video, index) for index in range(count)]
    if layout == 'json':
        rects = [box or [] for box in boxes]
        (folder / 'label.json').write_text(json.dumps(dict(exist=[int(bool(box)) for box in boxes], gt_rect=rects)))
    elif layout == 'lines':
        lines = [f'{first + i} ' + ' '.join(map(str, box)) for i, box in enumerate(boxes) if box]
        (folder / f'{video}.txt').write_text('\n'.join(lines))
    for index, box in enumerate(boxes):
        name = stem.format(index + 1)
        if layout == 'voc' and box:
            x, y, w, h = box
            (folder / f'{name}.xml').write_text(voc_xml([('UAV', x + 1, y + 1, x + 1 + w, y + 1 + h)]))
        elif layout == 'yolo':
            (folder / f'{name}.txt').write_text('' if box is None else yolo_line(box))


def write_frames(folder, count, suffix='.jpg', stem='{:04d}'):
    for index in range(count):
        write_image(folder / f'{stem.format(index + 1)}{suffix}', WIDTH, HEIGHT)


def write_video(path, count):
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter.fourcc(*('mp4v' if path.suffix == '.mp4' else 'MJPG'))
    writer = cv2.VideoWriter(str(path), fourcc, 25, (WIDTH, HEIGHT))
    for index in range(count):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8))
    writer.release()


def write_source(root, layout, split=None):
    """Three videos with frames and annotations in one folder each, undivided or below their split."""
    for video, count in SIZES.items():
        folder = root / (split or {}).get(video, '') / video
        write_frames(folder, count)
        annotate(folder, video, count, layout)
    return root


SPLIT = dict(v1='train', v2='val', v10='train')


@pytest.fixture
def root(tmp_path):
    return write_source(tmp_path / 'uav' / 'source', 'yolo', SPLIT)


@pytest.fixture(autouse=True)
def _quiet():
    """The counts of tiny sources are never the paper's; the test of that notice sees it all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*do not have 50 frames|.*where the CSF-Net paper has')
        warnings.filterwarnings('error', message='.*(dropped|clipped|another size)')
        yield


def convert(root, **options):
    out = root.parent
    summaries = convert_micro_uav(root, out, **options)
    return summaries, {split: json.loads((out / 'annotations' / f'{split}.json').read_text())
                       for split in ('train', 'val')}


def boxes_by_file(document):
    names = {image['id']: image['file_name'] for image in document['images']}
    return {names[entry['image_id']]: entry['bbox'] for entry in document['annotations']}


def expected_boxes(*videos, stem='{:04d}.jpg', first=1):
    return {f'{video}/{stem.format(index + first)}': box_of(video, index)
            for video in videos for index in range(SIZES[video]) if box_of(video, index)}


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if 'source' not in path.parts)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_same_document(tmp_path, layout):
    root = write_source(tmp_path / 'uav' / 'source', layout, SPLIT)
    summaries, documents = convert(root)
    assert documents['train']['videos'] == [dict(id=1, name='v1'), dict(id=3, name='v10')]
    assert documents['val']['videos'] == [dict(id=2, name='v2')]
    assert documents['train']['categories'] == documents['val']['categories'] == [dict(id=1, name='UAV')]
    assert documents['train']['images'] == [
        dict(id=i, file_name=f'{name}/{index + 1:04d}.jpg', width=WIDTH, height=HEIGHT, video_id=video,
             frame_index=index)
        for i, (video, name, index) in enumerate([(1, 'v1', 0), (1, 'v1', 1), (1, 'v1', 2), (3, 'v10', 0),
                                                  (3, 'v10', 1), (3, 'v10', 2)], 1)]
    assert boxes_by_file(documents['train']) == expected_boxes('v1', 'v10')
    assert boxes_by_file(documents['val']) == expected_boxes('v2')
    for document in documents.values():
        assert [entry['id'] for entry in document['annotations']] == [*range(1, len(document['annotations']) + 1)]
        assert all(entry['area'] == entry['bbox'][2] * entry['bbox'][3] for entry in document['annotations'])
    assert [(summary.images, summary.images_without_objects, summary.boxes) for summary in summaries] == [
        (6, 2, dict(UAV=4)), (4, 1, dict(UAV=3))]
    without_file = {'frames without an annotation file, taken to show no UAV': 2} if layout == 'voc' else {}
    assert summaries[0].counts == dict(videos=2, **without_file)
    assert summaries[0].path == tmp_path / 'uav' / 'annotations' / 'train.json'
    assert (tmp_path / 'uav' / 'annotations' / 'train.txt').read_text().split() == ['v1', 'v10']


def test_shelves_between_and_annotations_beside(tmp_path):
    root = tmp_path / 'source'
    for video, split in SPLIT.items():
        write_frames(root / 'images' / split / video, SIZES[video], '.PNG')
        annotate(root / 'labels' / split / video, video, SIZES[video], 'yolo')
    (root / 'labels' / 'train' / 'v1' / 'classes.txt').write_text('UAV\n')  # as LabelImg leaves it
    (root / 'README.txt').write_text('drones')
    for leftover in ('__MACOSX/train/v9/1.jpg', 'images/train/v1/._0001.jpg', '.thumbs/v8/1.jpg'):
        write_image(root / leftover)
    beside = tmp_path / 'lines' / 'source'
    for video, split in SPLIT.items():
        write_frames(beside / split / video / 'img', SIZES[video], '.PNG')
        annotate(beside / split / 'gt', video, SIZES[video], 'lines')
    assert convert(root)[1] == convert(beside)[1]


@pytest.mark.parametrize('suffix, layout', [('.avi', 'yolo'), ('.avi', 'voc'), ('.mp4', 'lines'), ('.avi', 'json')])
def test_video_files(tmp_path, suffix, layout):
    root = tmp_path / 'uav' / 'source'
    for video, split in SPLIT.items():
        write_video(root / split / video / f'rgb{suffix}' if layout == 'json' else root / split / f'{video}{suffix}',
                    SIZES[video])
        annotate(root / split / video if layout == 'json' else root / 'labels' / video, video, SIZES[video], layout,
                 stem='frame_{}')
    _, documents = convert(root)
    assert boxes_by_file(documents['train']) == expected_boxes('v1', 'v10', stem='{:06d}.png', first=0)
    assert boxes_by_file(documents['val']) == expected_boxes('v2', stem='{:06d}.png', first=0)
    assert [image['frame_index'] for image in documents['val']['images']] == [0, 1, 2, 3]
    for index in range(4):
        frame = cv2.imread(str(tmp_path / 'uav' / 'images' / 'val' / 'v2' / f'{index:06d}.png'))
        assert frame.shape == (HEIGHT, WIDTH, 3) and abs(frame.mean() - 20 * index) < 3
    assert everything_in(tmp_path / 'uav')[0] == 'annotations', 'the staging folder is gone'


def test_a_video_file_that_ends_early_is_named(tmp_path):
    root = tmp_path / 'uav' / 'source'
    for video in ('a', 'b'):
        write_video(root / f'{video}.avi', 10)
        (root / f'{video}.txt').write_text('0 2 3 4 5\n')
    chunks = (root / 'b.avi').read_bytes().split(b'00dc')  # a frame each, after the header
    (root / 'b.avi').write_bytes(b'00dc'.join(chunks[:6]))
    with pytest.warns(UserWarning, match=r"video '.*b\.avi' states 10 frames, but [45] can be decoded"):
        convert(root, val_fraction=0.5)


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    root = tmp_path / 'uav' / 'source'
    for video, split in SPLIT.items():
        write_frames(root / split / video, 12, stem='f{}')
        annotate(root / split / video, video, 12, 'lines')
    _, documents = convert(root)
    assert [image['file_name'] for image in documents['val']['images']] == [f'v2/f{i}.jpg' for i in range(1, 13)]
    boxes = [entry['bbox'] for entry in documents['val']['annotations']]
    assert boxes == [box_of('v2', index) for index in range(12) if index != 1]


@pytest.mark.parametrize('first', [0, 1])
def test_where_numbered_frames_begin(tmp_path, first):
    root = write_source(tmp_path / 'uav' / 'source', 'lines', SPLIT)
    for video in SIZES:
        annotate(root / SPLIT[video] / video, video, SIZES[video], 'lines', first)
    assert boxes_by_file(convert(root)[1]['train']) == expected_boxes('v1', 'v10')
    with pytest.raises(ValueError, match=f'frame {3 if first else 0} is not among the 3 frames of video .v1.'):
        convert(root, first_frame=1 - first, overwrite=True)


def test_numbered_frames_that_do_not_tell_where_they_begin(tmp_path):
    root = write_source(tmp_path / 'uav' / 'source', 'lines', SPLIT)
    for video in SIZES:
        (root / SPLIT[video] / video / f'{video}.txt').write_text('2,1,2,3,4\n')
    with pytest.raises(ValueError, match=r'v1\.txt, line 1: frames may count from 0 or from 1.*give first_frame'):
        convert(root)
    documents = convert(root, first_frame=0)[1]
    assert boxes_by_file(documents['val']) == {'v2/0003.jpg': [1, 2, 3, 4]}
    (root / 'val' / 'v2' / 'v2.txt').write_text('0 1 2 3 4\n4 1 2 3 4')
    with pytest.raises(ValueError, match=r'v2\.txt, line 1: names frame 0, yet .*v2\.txt, line 2'):
        convert(root, overwrite=True)


def test_yolo_boxes_come_back_from_six_decimals(tmp_path):
    root, size = tmp_path / 'source', 3840
    boxes = [(x, 5, w, 3) for x, w in zip(range(1, 3800, 7), [1, 2, 3, 4, 5] * 200, strict=False)]
    boxes.append((3837, 13, 3, 3))  # up to the corner, and not clipped
    for video in ('a', 'b'):
        write_image(root / video / '1.png', size, 16)
        (root / video / '1.txt').write_text(''.join(yolo_line(box, size, 16) for box in boxes))
    document = convert(root, val_fraction=0.5)[1]['train']
    assert [tuple(entry['bbox']) for entry in document['annotations']] == boxes
    assert all(isinstance(value, int) for entry in document['annotations'] for value in entry['bbox'])


# the split

def many(root, count=20):
    for index in range(count):
        write_frames(root / f'v{index}', 1)
        (root / f'v{index}' / '0001.txt').write_text('0 0.5 0.5 0.1 0.1')
    return root


def names_of(documents):
    return {split: [video['name'] for video in document['videos']] for split, document in documents.items()}


def test_a_drawn_split_is_by_video_and_from_its_seed(tmp_path):
    root = many(tmp_path / 'source')
    summaries, documents = convert(root)
    drawn = names_of(documents)
    assert len(drawn['train']) == 15 and len(drawn['val']) == 5, '62 of 244, rounded'
    assert sorted(drawn['train'] + drawn['val']) == sorted(f'v{index}' for index in range(20))
    assert drawn['val'] == ['v2', 'v3', 'v4', 'v13', 'v15']  # frozen: figures depend on it
    assert summaries[0].name == 'Micro RGB UAV train, split drawn with seed 0'
    for split, document in documents.items():
        assert {image['file_name'].split('/')[0] for image in document['images']} == set(drawn[split])
    assert names_of(convert(root, overwrite=True)[1]) == drawn
    assert names_of(convert(root, seed=1, overwrite=True)[1]) != drawn
    assert len(names_of(convert(root, val_fraction=0.5, overwrite=True)[1])['val']) == 10


def test_the_papers_counts_come_out_of_244_videos():
    from mmscale.datasets.convert import split_names
    assert [len(part) for part in split_names([str(i) for i in range(244)], 1 - 62 / 244)] == [182, 62]


def test_lists(tmp_path):
    root = many(tmp_path / 'source', 4)
    (root / 'train.txt').write_text('v1\nv3.mp4\n')
    (root / 'val.txt').write_text('v0\n')
    with pytest.warns(UserWarning, match=r'1 videos are in neither list and left out \(the first: v2\)'):
        _, documents = convert(root)
    assert names_of(documents) == dict(train=['v1', 'v3'], val=['v0'])
    (tmp_path / 'a.txt').write_text('v2\nv0\n')
    (tmp_path / 'b.txt').write_text('v1\nv3\n')
    _, documents = convert(root, train_list=tmp_path / 'a.txt', val_list=tmp_path / 'b.txt', overwrite=True)
    assert names_of(documents) == dict(train=['v0', 'v2'], val=['v1', 'v3'])
    assert [video['id'] for video in documents['val']['videos']] == [2, 4]


@pytest.mark.parametrize('train, val, message', [
    ('v0\nv1\n', 'v1\n', r"must not share videos, but share \['v1'\]"),
    ('v0\nv9\n', 'v1\n', r"train\.txt, line 2: there is no video 'v9'"),
    ('v0\n', '\n', r"val\.txt' names no video"),
    ('v0\n', None, r"val\.txt' does not exist"),
])
def test_wrong_lists(tmp_path, train, val, message):
    root = many(tmp_path / 'source', 4)
    (root / 'train.txt').write_text(train)
    if val is not None:
        (root / 'val.txt').write_text(val)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(root)


def test_a_video_in_both_splits_is_named(root):
    write_frames(root / 'val' / 'v10', 2)
    with pytest.raises(ValueError, match=r"video 'v10' is in train and in val \('.*val.v10.0001\.jpg'\)"):
        convert(root)
    shutil.rmtree(root / 'val' / 'v10')
    annotate(root / 'labels' / 'train' / 'v2', 'v2', 2, 'voc')
    with pytest.raises(ValueError, match=r"0001\.xml' is in train, but its video 'v2' is in val"):
        convert(root)


@pytest.mark.parametrize('options, message', [
    (dict(val_fraction=1.5), 'val_fraction must lie between 0 and 1, but is 1.5'),
    (dict(val_fraction=0.01), 'val_fraction 0.01 of 3 videos leaves one split empty'),
    (dict(train_list='a.txt'), 'train_list and val_list must be given together, but train_list is a.txt'),
    (dict(first_frame=2), 'first_frame must be 0 or 1, but is 2'),
    (dict(layout='coco'), r"layout must be one of \['yolo', 'voc', 'lines', 'json'\], but is 'coco'"),
    (dict(layout='voc'), "no annotations fit the videos in layout 'voc'"),
])
def test_wrong_options(tmp_path, options, message):
    root = write_source(tmp_path / 'uav' / 'source', 'yolo')
    with pytest.raises(ValueError, match=message):
        convert(root, **options)
    assert everything_in(tmp_path / 'uav') == []


def test_a_source_half_divided(root, tmp_path):
    with pytest.raises(ValueError, match=r"train_list is 'a\.txt', but root '.*' is divided by its folders already"):
        convert(root, train_list='a.txt', val_list='b.txt')
    shutil.move(root / 'train' / 'v10', root / 'v10')
    with pytest.raises(ValueError, match="must have videos in both train and val.* has them in .*no split"):
        convert(root)


# layouts that do not fit, files that do not fit

def test_several_layouts_or_none(root):
    for video, split in SPLIT.items():
        annotate(root / split / video / 'xml', video, SIZES[video], 'voc')
    with pytest.raises(ValueError, match=r"several layouts fit, voc \('.*\.xml'\) and yolo \('.*\.txt'\): choose one"):
        convert(root)
    assert boxes_by_file(convert(root, layout='voc')[1]['val']) == expected_boxes('v2')
    for path in [*root.rglob('*.txt'), *root.rglob('*.xml')]:
        path.unlink()
    with pytest.raises(ValueError, match='no annotations fit the videos; supported are yolo: .*; json: '):
        convert(root, overwrite=True)


def break_it(path, content=None):
    path.unlink() if content is None else path.write_text(content)


@pytest.mark.parametrize('fault, message', [
    (lambda root: write_image(root / 'train' / '0001.jpg'), r"train.0001\.jpg' lies in no folder of one video"),
    (lambda root: write_image(root / 'train' / 'x' / 'v1' / '1.jpg'), 'lies in no folder of one video'),
    (lambda root: write_image(root / 'train' / 'v1' / '0001.png'), r"video 'v1' has frames in two folders or twice"),
    (lambda root: write_image(root / 'train' / 'v1' / 'img' / '7.jpg'), 'frames in two folders or twice'),
    (lambda root: write_video(root / 'train' / 'v1.avi', 2), r"'v1' has both frames .* and a video file .*v1\.avi"),
    (lambda root: break_it(root / 'train' / 'v1' / '0007.txt', ''), r"0007\.txt' has no frame in '.*v1'"),
    (lambda root: break_it(root / 'labels' / 'v1' / '0001.txt', ''), 'annotate the same frame'),
    (lambda root: [path.unlink() for path in (root / 'train' / 'v1').glob('*.txt')], "'v1' has no annotations in layo"),
])
def test_files_that_do_not_fit_together(root, fault, message):
    (root / 'labels' / 'v1').mkdir(parents=True)
    fault(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(root)
    assert everything_in(root.parent) == []


def test_video_files_that_do_not_fit_together(tmp_path):
    root = tmp_path / 'uav' / 'source'
    for video in ('a', 'b'):
        write_video(root / f'{video}.avi', 2)
        annotate(root / 'labels' / video, video, 2, 'voc', stem='first')
    with pytest.raises(ValueError, match=r"first\.xml' of a video file must end in its frame's number"):
        convert(root, val_fraction=0.5)
    write_video(root / 'videos' / 'a' / 'ir.avi', 2)
    with pytest.raises(ValueError, match=r"video 'a' has two files, '.*a\.avi' and '.*ir\.avi'"):
        convert(root, val_fraction=0.5)
    shutil.rmtree(root / 'videos')
    shutil.rmtree(root / 'labels')
    for video in ('a', 'b'):
        annotate(root / video, video, 2, 'json')
    content = (root / 'b.avi').read_bytes()
    (root / 'b.avi').write_bytes(content[:60])
    with pytest.raises(ValueError, match=r"video '.*b\.avi' cannot be decoded"):
        convert(root, val_fraction=0.5)
    assert everything_in(tmp_path / 'uav') == []


def test_two_texts_of_one_video(tmp_path):
    root = write_source(tmp_path / 'uav' / 'source', 'json', SPLIT)
    shutil.copy(root / 'train' / 'v1' / 'label.json', root / 'train' / 'v1' / 'other.json')
    with pytest.raises(ValueError, match=r"'v1' has 2 files in layout 'json' .*label\.json' and '.*other\.json'"):
        convert(root)


def test_missing_folders_and_folders_in_each_other(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' is missing"):
        convert(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='holds no frames .* and no video files'):
        convert(tmp_path / 'empty')
    for out in (root, root / 'coco'):
        with pytest.raises(ValueError, match='must not lie in each other'):
            convert_micro_uav(root, out)
    inside = shutil.move(root, root.parent / 'images')
    with pytest.raises(ValueError, match='must not lie in each other'):
        convert_micro_uav(inside, root.parent, overwrite=True)
    assert (Path(inside) / 'val' / 'v2' / '0001.jpg').is_file()


# annotations that do not fit

@pytest.mark.parametrize('layout, name, content, message', [
    ('yolo', '0001.txt', '0 .5 .5 .1 .1\n3 .5 .5 .1 .1', r"0001\.txt, line 2: class '3' is not the UAV's"),
    ('yolo', '0001.txt', '0 .5 .5 .1', r"0001\.txt, line 1: expected 5 values \(class cx cy w h\), found 4"),
    ('yolo', '0001.txt', '0 .5 x .1 .1', r"0001\.txt, line 1: cy must be a number, but is 'x'"),
    ('yolo', '0001.txt', '0 30 20 4 4', r"0001\.txt, line 1: cx cy w h must be parts of .* but are '30 20 4 4'"),
    ('voc', '0001.xml', voc_xml([('bird', 5, 5, 9, 9)]), r"0001\.xml, line 3: class 'bird' is not among .*\['UAV'\]"),
    ('voc', '0001.xml', '<annotation><object>', r'0001\.xml, line 1: not well-formed XML'),
    ('lines', 'v2.txt', '1 2 3 4', r"v2\.txt, line 1: expected 5 values \(frame x y w h\), found 4"),
    ('lines', 'v2.txt', '1.5 2 3 4 5', r'v2\.txt, line 1: frame must be a whole number, but is 1.5'),
    ('lines', 'v2.txt', '5 2 3 4 5', r'v2\.txt, line 1: frame 5 is not among the 4 frames of video .v2.'),
    ('json', 'label.json', '{"exist": [1, 1, 1], "gt_rect": []}', r"'exist' must list one value for each of 4 frames, "
     'but has 3'),
    ('json', 'label.json', '{"exist": [0, 0, 0, 0]}', r"label\.json: 'gt_rect' must list .* but has no such list"),
    ('json', 'label.json', '[1]', r"label\.json: 'exist' must list .* but has no such list"),
    ('json', 'label.json', '{"exist": [0, 1, 0, 0], "gt_rect": [[], [1, 2, 3], [], []]}',
     r"label\.json, frame 1: 'gt_rect' must be \[x, y, w, h\], but is \[1, 2, 3\]"),
    ('json', 'label.json', '{"exist": [0, 2, 0, 0], "gt_rect": [[], [], [], []]}', "'exist' must be 0 or 1, but is 2"),
    ('json', 'label.json', '{"exist": ', r"label\.json', line 1, column 11: broken JSON"),
])
def test_a_wrong_annotation_is_named(tmp_path, layout, name, content, message):
    root = write_source(tmp_path / 'uav' / 'source', layout, SPLIT)
    (root / 'val' / 'v2' / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        convert(root)
    assert everything_in(tmp_path / 'uav') == []


def test_boxes_without_area_outside_and_clipped_are_counted(tmp_path):
    root = write_source(tmp_path / 'uav' / 'source', 'lines', SPLIT)
    (root / 'val' / 'v2' / 'v2.txt').write_text('1 5 5 0 3\n2 64 5 3 3\n3 -3 5 3 3\n4 62 46 5 5\n4 1 1 2 -2')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        summaries, documents = convert(root)
    assert boxes_by_file(documents['val']) == {'v2/0004.jpg': [62, 46, 2, 2]}
    assert summaries[1].counts == {'videos': 1, 'boxes without area, dropped': 2,
                                   'boxes outside the image, dropped': 2, 'boxes clipped to the image': 1}
    assert 'boxes outside the image, dropped: 2' in str(summaries[1])
    assert any('2 boxes without area, dropped (the first: ' in str(warning.message)
               and 'v2.txt, line 1' in str(warning.message) for warning in caught)


def test_other_names_of_the_class(tmp_path):
    root = write_source(tmp_path / 'uav' / 'source', 'voc', SPLIT)
    for path in root.rglob('*.xml'):
        path.write_text(path.read_text().replace('UAV', 'drone'))
    _, documents = convert(root, label='drone')
    assert documents['val']['categories'] == [dict(id=1, name='UAV')]
    assert boxes_by_file(documents['val']) == expected_boxes('v2')


def test_a_truncated_frame_is_named(root):
    path = root / 'val' / 'v2' / '0003.jpg'
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"image '.*v2.0003\.jpg' cannot be decoded"):
        convert(root)
    assert everything_in(root.parent) == []


def test_decode_finds_damage_in_the_middle(root):
    path = root / 'val' / 'v2' / '0003.jpg'
    write_image(path.with_suffix('.png'), WIDTH, HEIGHT).replace(path)  # a PNG has check sums
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xff
    path.write_bytes(content)
    convert(root)
    with pytest.raises(ValueError, match=r"0003\.jpg' cannot be decoded"):
        convert(root, decode=True, overwrite=True)


def test_counts_that_are_not_the_papers(root):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        convert(root)
    assert [str(warning.message).removeprefix('Micro RGB UAV: ') for warning in caught] == [
        '3 of 3 videos do not have 50 frames (the first: v1 with 3)',
        '2 videos for training and 1 for validation, where the CSF-Net paper has 182 and 62']


# what is written

def test_frames_are_linked_or_copied(root, tmp_path):
    convert(root)
    frame = tmp_path / 'uav' / 'images' / 'val' / 'v2' / '0001.jpg'
    assert frame.is_symlink() and not os.path.isabs(os.readlink(frame))
    moved = shutil.move(tmp_path / 'uav', tmp_path / 'moved')
    assert (Path(moved) / 'images' / 'val' / 'v2' / '0001.jpg').stat().st_size > 100, 'links within out go with it'
    convert_micro_uav(Path(moved) / 'source', tmp_path / 'elsewhere')
    assert (tmp_path / 'elsewhere' / 'images' / 'val' / 'v2' / '0001.jpg').stat().st_size > 100
    convert_micro_uav(Path(moved) / 'source', tmp_path / 'copied', copy=True)
    shutil.rmtree(Path(moved) / 'source')
    frame = tmp_path / 'copied' / 'images' / 'val' / 'v2' / '0001.jpg'
    assert not frame.is_symlink() and cv2.imread(str(frame)) is not None


def test_an_earlier_result_stays_until_the_new_one_is_whole(root):
    convert(root)
    before = everything_in(root.parent)
    documents = {path.name: path.read_text() for path in (root.parent / 'annotations').iterdir()}
    with pytest.raises(FileExistsError, match="images' exists: give overwrite to replace it, or another out"):
        convert(root)
    (root / 'train' / 'v10' / '0002.txt').write_text('nonsense')
    with pytest.raises(ValueError, match='line 1'):
        convert(root, overwrite=True)
    assert everything_in(root.parent) == before
    assert {path.name: path.read_text() for path in (root.parent / 'annotations').iterdir()} == documents
    shutil.rmtree(root / 'train' / 'v10')
    convert(root, overwrite=True)
    assert not (root.parent / 'images' / 'train' / 'v10').exists()
    assert not [path for path in root.parent.iterdir() if path.name.startswith('.')]


def test_a_failure_while_writing_leaves_nothing(root, monkeypatch):
    convert(root)
    before = everything_in(root.parent)
    replace = os.replace

    def refuse(source, target):
        if Path(target) == root.parent / 'images' and Path(source).name == 'images':
            raise OSError('no')
        replace(source, target)

    monkeypatch.setattr('os.replace', refuse)
    with pytest.raises(OSError, match='no'):
        convert(root, overwrite=True)
    assert everything_in(root.parent) == before, 'the old frames are back'


def test_a_failure_removes_the_folder_that_was_made(root, tmp_path):
    (root / 'val' / 'v2' / '0001.txt').write_text('nonsense')
    with pytest.raises(ValueError, match='line 1'):
        convert_micro_uav(root, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()


def test_the_command_line(root, repo, monkeypatch, capsys):
    main = runpy.run_path(str(repo / 'tools' / 'data' / 'convert.py'))['main']
    monkeypatch.setattr('warnings.showwarning', warnings.showwarning)  # put back afterwards
    command = ['convert.py', 'micro_uav', '--root', str(root), '--out', str(root.parent)]
    monkeypatch.setattr('sys.argv', command)
    assert main() == 0
    text = capsys.readouterr().out
    assert 'Micro RGB UAV train, split by folders: 6 images (2 without objects), 4 boxes' in text
    assert 'annotations/val.json' in text.replace(os.sep, '/')
    assert main() == 1 and 'error: ' in capsys.readouterr().err
    monkeypatch.setattr('sys.argv', [*command, '--overwrite', '--copy', '--layout', 'yolo', '--label', '7'])
    assert main() == 1 and "class '0' is not the UAV's, which is '7'" in capsys.readouterr().err


def test_the_data_layer_loads_the_result(tmp_path, repo, monkeypatch):
    write_source(tmp_path / 'data' / 'micro_uav' / 'source', 'yolo', SPLIT)
    monkeypatch.chdir(tmp_path)
    convert_micro_uav()  # the defaults are the layer's places
    init_default_scope('mmdet')
    cfg = Config.fromfile(repo / 'configs' / '_base_' / 'datasets' / 'micro_uav.py')
    train, val = (DATASETS.build(dict(cfg[f'{stage}_dataloader'].dataset, serialize_data=False))
                  for stage in ('train', 'val'))
    assert (len(train), len(val)) == (4, 4), 'training leaves frames without a UAV out'
    for dataset, names in ((train, ('v1', 'v10')), (val, ('v2', ))):
        found = {}
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            for instance in info['instances']:
                x1, y1, x2, y2 = instance['bbox']
                found['/'.join(Path(info['img_path']).parts[-2:])] = [x1, y1, x2 - x1, y2 - y1]
                assert instance['bbox_label'] == 0
            assert dataset[index]['inputs'].shape == (3, 480, 640)
        assert found == expected_boxes(*names)
