"""Gets the data sets that may be fetched, and says what to do by hand for the others.

Where a publisher gives a checksum it is verified. Where none is given (COCO, and BCCD's archive, which GitHub packs on
demand) the length, if the server states it, and the archive's own check sums are, and the SHA-256 seen is recorded
beside the archive, so that a later run can tell a change. An archive that proves damaged is deleted.
"""
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .archive import DamagedArchiveError, extract
from .fetch import fetch

__all__ = ['CATALOGUE', 'Archive', 'DataSet', 'describe', 'download']


@dataclass(frozen=True)
class Archive:
    """One file to fetch and unpack.

    Args:
        name (str): Short name, for ``only``.
        urls (tuple[str, ...]): Addresses, the publisher's first; mirrors only where a checksum guards them.
        folder (str): Where its content goes, under the root.
        proof (tuple[str, ...]): Paths under ``folder`` that exist exactly when the archive has been unpacked.
        size (str): About how large it is, for the list.
        md5 (str, optional): The checksum. Defaults to None: there is none that is known for certain.
        inside (str): Folder inside the archive that is wanted. Defaults to '', everything.
    """
    name: str
    urls: tuple[str, ...]
    folder: str
    proof: tuple[str, ...]
    size: str
    md5: str | None = None
    inside: str = ''

    @property
    def file_name(self) -> str:
        return self.urls[0].rsplit('/', 1)[1]

    def is_unpacked(self, root: Path) -> bool:
        return all((root / self.folder / path).exists() for path in self.proof)


@dataclass(frozen=True)
class DataSet:
    """A data set of the catalogue: archives to fetch, or steps to do by hand.

    Args:
        title (str): Its name.
        archives (tuple[Archive, ...]): What to fetch. Defaults to ().
        by_hand (str): What to do where nothing may be fetched; ``{root}`` is filled in. Defaults to ''.
        proof (tuple[str, ...]): Paths under the root that exist when the manual part was done. Defaults to ().
        then (str): What to run next. Defaults to ''.
    """
    title: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ''
    proof: tuple[str, ...] = ()
    then: str = ''


_COCO = 'http://images.cocodataset.org'
_BCCD_COMMIT = 'd272fb14cdff6e473fafeeeba32aba5f560e9e43'


def _voc(name: str, year: str, file_name: str, size: str, md5: str) -> Archive:
    """An archive of PASCAL VOC: the publisher's server is often away, and the checksum makes a mirror safe."""
    urls = f'http://host.robots.ox.ac.uk/pascal/VOC/voc{year}/{file_name}', f'http://pjreddie.com/media/files/{file_name}'
    return Archive(name, urls, 'VOCdevkit', (f'VOC{year}/ImageSets/Main/{name}.txt', ), size, md5, inside='VOCdevkit')


CATALOGUE = {
    'coco': DataSet('COCO 2017', (
        Archive('annotations', (f'{_COCO}/annotations/annotations_trainval2017.zip', ), 'coco',
                ('annotations/instances_train2017.json', 'annotations/instances_val2017.json'), '0.25 GB'),
        Archive('val2017', (f'{_COCO}/zips/val2017.zip', ), 'coco', ('val2017', ), '0.8 GB'),
        Archive('train2017', (f'{_COCO}/zips/train2017.zip', ), 'coco', ('train2017', ), '19 GB'),
    )),
    'coco_panoptic': DataSet('COCO 2017, panoptic annotations (the images are those of coco)', (
        Archive('annotations', (f'{_COCO}/annotations/panoptic_annotations_trainval2017.zip', ), 'coco',
                ('annotations/panoptic_train2017.json', 'annotations/panoptic_val2017.json',
                 'annotations/panoptic_train2017.zip', 'annotations/panoptic_val2017.zip'), '0.8 GB'), ),
        then='python -m zipfile -e {root}/coco/annotations/panoptic_train2017.zip {root}/coco/annotations && '
        'python -m zipfile -e {root}/coco/annotations/panoptic_val2017.zip {root}/coco/annotations'),
    'voc2007': DataSet('PASCAL VOC 2007', (
        _voc('trainval', '2007', 'VOCtrainval_06-Nov-2007.tar', '0.46 GB', 'c52e279531787c972589f7e41ab4ae64'),
        _voc('test', '2007', 'VOCtest_06-Nov-2007.tar', '0.45 GB', 'b6e924de25625d8de591ea690078ad9f'),
    )),
    'voc2012': DataSet('PASCAL VOC 2012', (
        _voc('trainval', '2012', 'VOCtrainval_11-May-2012.tar', '2.0 GB', '6cd6e144f989b92b3379bac3b3de84fd'), )),
    'bccd': DataSet('BCCD (blood cells)', (
        Archive('bccd', (f'https://github.com/Shenggan/BCCD_Dataset/archive/{_BCCD_COMMIT}.zip', ), 'bccd',
                ('ImageSets/Main/train.txt', 'JPEGImages', 'Annotations'), '8 MB',
                inside=f'BCCD_Dataset-{_BCCD_COMMIT}/BCCD'),
    )),
    'visdrone': DataSet(
        'VisDrone2019-DET',
        by_hand='1. Open https://github.com/VisDrone/VisDrone-Dataset, section "Task 1: Object Detection in Images".\n'
        '2. Fetch trainset (1.44 GB) and valset (0.07 GB) from the Google Drive or Baidu links there; test-dev if you\n'
        '   want it.\n'
        '3. Unpack VisDrone2019-DET-train.zip and VisDrone2019-DET-val.zip into {root}/visdrone, so that\n'
        '   {root}/visdrone/VisDrone2019-DET-train/images and .../annotations exist.',
        proof=tuple(f'visdrone/VisDrone2019-DET-{split}/{part}' for split in ('train', 'val')
                    for part in ('images', 'annotations')),
        then='python tools/data/convert.py visdrone --root {root}/visdrone'),
    'nwpu_vhr10': DataSet(
        'NWPU VHR-10',
        by_hand='1. Open https://github.com/Gaoshuaikun/NWPU-VHR-10 or ask the authors (gcheng@nwpu.edu.cn) and fetch\n'
        '   "NWPU VHR-10 dataset" (about 75 MB).\n'
        '2. Place its folders "positive image set" (650 images) and "ground truth" in {root}/nwpu_vhr10.',
        proof=('nwpu_vhr10/positive image set', 'nwpu_vhr10/ground truth'),
        then='python tools/data/convert.py nwpu --root {root}/nwpu_vhr10'),
    'micro_uav': DataSet(
        'Micro RGB UAV',
        by_hand='1. Ask the authors of the data set for it (the CSF-Net paper names its source); it has no public\n'
        '   address.\n'
        '2. Place its videos or folders of frames, with their annotations, in {root}/micro_uav/source.\n'
        '3. python tools/data/convert.py micro_uav --root {root}/micro_uav/source --out {root}/micro_uav\n'
        '   makes {root}/micro_uav/annotations/train.json and val.json, images/train and images/val.',
        proof=('micro_uav/annotations/train.json', 'micro_uav/annotations/val.json', 'micro_uav/images/train',
               'micro_uav/images/val')),
    'cityscapes': DataSet(
        'Cityscapes',
        by_hand='1. Register at https://www.cityscapes-dataset.com (an academic or company address is needed).\n'
        '2. Fetch leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB).\n'
        '3. Unpack both into {root}/cityscapes, so that leftImg8bit/train and gtFine/train exist.\n'
        '4. Make the COCO annotations with the converter that MMDetection brings:\n'
        '   pip install cityscapesscripts\n'
        '   python "$(python -c \'import mmdet; print(mmdet.__path__[0])\')'
        '/.mim/tools/dataset_converters/cityscapes.py" \\\n'
        '       {root}/cityscapes --nproc 4 --out-dir {root}/cityscapes/annotations\n'
        '5. For semantic segmentation make *_labelTrainIds.png:\n'
        '   CITYSCAPES_DATASET={root}/cityscapes csCreateTrainIdLabelImgs',
        proof=('cityscapes/leftImg8bit/train', 'cityscapes/gtFine/train')),
}


def download(name: str, root: str | Path = 'data', only: Sequence[str] = (), delete_archives: bool = False,
             **fetch_options) -> bool:
    """Fetches, verifies and unpacks a data set; skips what is there already.

    Args:
        name (str): A key of ``CATALOGUE``.
        root (str | Path): The data folder. Defaults to 'data'.
        only (Sequence[str]): Names of the archives wanted. Defaults to (), all.
        delete_archives (bool): Delete each archive once it is unpacked. Defaults to False: they stay in
            ``<root>/downloads``.
        **fetch_options: Passed to ``fetch`` (``retries``, ``backoff``, ``timeout``).

    Returns:
        bool: Whether the data is in place; False when there are steps to do by hand, which are printed.

    Raises:
        ValueError: Unknown name, wrong checksum, damaged or unsafe archive.
        OSError: The network, the server or the disk does not allow it.
    """
    data_set, root = _look_up(name), Path(root)
    if not data_set.archives:
        if all((root / path).exists() for path in data_set.proof):
            print(f'{data_set.title}: in place under {root}')
        else:
            print(describe(name, root))
            return False
    known = [archive.name for archive in data_set.archives]
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise ValueError(f'{name} has no archive {unknown}; it has {known}')
    for archive in data_set.archives:
        if not only or archive.name in only:
            _obtain(archive, data_set.title, root, delete_archives, fetch_options)
    if data_set.then:
        print(f'next: {data_set.then.format(root=root)}')
    return True


def describe(name: str, root: str | Path = 'data') -> str:
    """What ``download`` will fetch for a data set, or what to do by hand.

    Example:
        >>> print(describe('bccd'))  # doctest: +ELLIPSIS
        bccd: BCCD (blood cells)
          bccd  8 MB  no published checksum: length, archive CRC  https://github.com/...
    """
    data_set, root = _look_up(name), Path(root)
    lines = [f'{name}: {data_set.title}']
    for archive in data_set.archives:
        check = f'MD5 {archive.md5}' if archive.md5 else 'no published checksum: length, archive CRC'
        there = '  (in place)' if archive.is_unpacked(root) else ''
        lines.append(f'  {archive.name}  {archive.size}  {check}  {archive.urls[0]}{there}')
    if data_set.by_hand:
        lines.append('  no direct download; by hand:')
        lines += [f'  {line}' for line in data_set.by_hand.format(root=root).splitlines()]
    if data_set.then:
        lines.append(f'  then: {data_set.then.format(root=root)}')
    return '\n'.join(lines)


def _look_up(name: str) -> DataSet:
    if name not in CATALOGUE:
        raise ValueError(f"there is no data set '{name}'; there are {sorted(CATALOGUE)}")
    return CATALOGUE[name]


def _obtain(archive: Archive, title: str, root: Path, delete_archive: bool, fetch_options: dict) -> None:
    if archive.is_unpacked(root):
        print(f'{title} {archive.name}: in place under {root / archive.folder}')
        return
    file = root / 'downloads' / archive.file_name
    for url in archive.urls:
        try:
            # images do not compress: the archive and its content need about twice the archive's length
            fetch(url, file, archive.md5, space_factor=2.0, **fetch_options)
            break
        except (OSError, ValueError) as error:
            if url == archive.urls[-1] or getattr(error, 'errno', None) == errno.ENOSPC:
                raise
            print(f'{error}; trying the next address')
    print(f'{title} {archive.name}: unpacking into {root / archive.folder}')
    try:
        extract(file, root / archive.folder, archive.inside, archive.proof)
    except DamagedArchiveError as error:
        file.unlink()
        file.with_name(f'{file.name}.sha256').unlink(missing_ok=True)
        raise ValueError(f'{str(error).rpartition(": ")[0]} and was deleted: run the same command again to fetch it '
                         'afresh') from error
    if not archive.is_unpacked(root):
        raise ValueError(f"'{file}' was unpacked into '{root / archive.folder}', but {list(archive.proof)} is not "
                         'there: it is not the archive that was expected')
    if delete_archive:
        file.unlink()
