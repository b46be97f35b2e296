"""Packaging: the package lives under projects/, its configs and tools travel in the wheel as mmscale/.mim."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent
SHIPPED = ('configs', 'tools')  # OpenMMLab's place for them: `_base_ = 'mmscale::...'` and `mim` look there


class BuildWithConfigs(build_py):
    """Copies configs and tools into the wheel; an editable install links to them instead."""

    def run(self):
        super().run()
        if self.editable_mode:
            mim = TOP / 'projects' / 'mmscale' / '.mim'
            mim.mkdir(exist_ok=True)
            for name in SHIPPED:
                if not (mim / name).is_symlink():
                    (mim / name).symlink_to(os.path.relpath(TOP / name, mim))
            return
        mim = Path(self.build_lib) / 'mmscale' / '.mim'
        for name in SHIPPED:
            shutil.rmtree(mim / name, ignore_errors=True)
            shutil.copytree(TOP / name, mim / name, ignore=shutil.ignore_patterns('__pycache__'))


def read_version() -> str:
    scope = {}
    exec((TOP / 'projects' / 'mmscale' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='mmscale',
    version=read_version(),
    description='Feature-fusion and small-object detection papers as components for MMDetection',
    long_description=(TOP / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    classifiers=[
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    python_requires='>=3.10',
    package_dir={'': 'projects'},
    packages=find_packages('projects'),
    # torch and mmcv are absent on purpose: mmcv must be compiled against the torch that is already there, which pip
    # cannot do on its own. requirements.txt pins the tested stack, `python -m mmscale` says what is missing and how
    # to mend it.
    install_requires=['mmengine>=0.10.7', 'mmdet>=3.3.0', 'pycocotools', 'rich', 'tqdm'],
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
