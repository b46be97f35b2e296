"""The YOLOs beyond MMYOLO: YOLOv10 and YOLOv12.

:mod:`.blocks` and :mod:`.attention` stand alone. :mod:`.backbones`, :mod:`.necks` and :mod:`.heads` build on MMYOLO,
which is optional and under the GPL; :mod:`.api` is the one place where it is imported. :mod:`mmscale.registry` lists
what needs it.
"""
