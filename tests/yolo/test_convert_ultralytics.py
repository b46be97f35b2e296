"""Official state dicts into ours: against a literal network by the official names, and the package where it is."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from mmengine.runner import load_checkpoint

from mmscale.convert.convert import build_without_weights
from mmscale.convert.ultralytics.convert import family_of, official_shapes
from mmscale.registry import MODELS

from .official import as_official, config_of, convert, options_of, our_config, random_images
from .official_network import Network, decode, randomise

pytest.importorskip('mmyolo', reason='the YOLOs stand on mmyolo, which is optional')

# Number of tensors, of parameters (the 16 constant bins are among them), and a digest of names and shapes.
OFFICIAL = {
    ('YOLOv8', 'n', False): (355, 3157200, 'd0a46c1afde3'),
    ('YOLOv8', 's', False): (355, 11166560, '60a0cddb6808'),
    ('YOLOv8', 'm', False): (475, 25902640, '9917aebe698f'),
    ('YOLOv8', 'l', False): (595, 43691520, 'b6b8b6928bb6'),
    ('YOLOv10', 'n', False): (595, 2775520, '08c7412d60ad'),
    ('YOLOv10', 's', False): (619, 8128272, '652fc5a1ba5a'),
    ('YOLOv10', 'm', False): (799, 16576768, '83c1fc47d1a4'),
    ('YOLOv10', 'b', False): (835, 20574384, '6a1f482613ef'),
    ('YOLOv10', 'l', False): (1027, 25888688, '1e6bdd01870b'),
    ('YOLOv10', 'x', False): (1135, 31808960, '27128b164fab'),
    ('YOLOv12', 'n', False): (739, 2553904, '3016d8e2e9e1'),
    ('YOLOv12', 's', False): (739, 9127424, '70f5b0f794c4'),
    ('YOLOv12', 'm', False): (799, 19670784, 'f8b312884de6'),
    ('YOLOv12', 'l', False): (1341, 26506496, '3ff8878cf745'),
    ('YOLOv12', 'x', False): (1341, 59414176, '01c7a332a090'),
    ('YOLOv12', 'n', True): (691, 2602288, '4c8b3d3f642b'),
    ('YOLOv12', 's', True): (691, 9284096, '3f284b873c7b'),
}

# Family, scale, first release, width, classes: every kind of layer, more than one head where heads are regrouped.
CASES = [
    ('YOLOv8', 'n', False, 0.25, 80),
    ('YOLOv8', 'm', False, 0.125, 5),
    ('YOLOv10', 'n', False, 0.25, 5),
    ('YOLOv10', 's', False, 0.25, 80),
    ('YOLOv10', 'm', False, 0.5, 5),
    ('YOLOv10', 'x', False, 0.25, 5),
    ('YOLOv12', 'n', False, 0.25, 5),
    ('YOLOv12', 'm', False, 0.25, 5),
    ('YOLOv12', 'l', False, 0.25, 80),
    ('YOLOv12', 'n', True, 0.25, 5),
    ('YOLOv12', 'l', True, 0.5, 5),
]


def digest(shapes):
    lines = sorted(f'{name} {list(shape)}' for name, shape in shapes.items())
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:12]


def numbers_of(shapes):
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    weights = [torch.Size(shape).numel() for name, shape in shapes.items() if not name.endswith(buffers)]
    return len(shapes), sum(weights), digest(shapes)


def our_outputs(model, images):
    """Of every branch raw logits as the official form has them, and boxes and scores."""
    batch = model.data_preprocessor(dict(inputs=list(images), data_samples=None), False)['inputs'].double()
    maps = model.double().extract_feat(batch)
    module = model.bbox_head.head_module
    branches = {'': module} if hasattr(module, 'reg_preds') else {'': module.one_to_many, 'one2one_': module.one_to_one}
    raw, decoded = {}, {}
    for name, branch in branches.items():
        levels = zip(branch.reg_preds, branch.cls_preds, maps, strict=True)
        raw[name] = [torch.cat((boxes(x), scores(x)), 1) for boxes, scores, x in levels]
        logits, sides = branch(maps)
        sizes = [level.shape[2:] for level in logits]
        priors = torch.cat(model.bbox_head.prior_generator.grid_priors(sizes, device='cpu', with_stride=True))
        sides = torch.cat([level.flatten(2) for level in sides], 2).transpose(1, 2)
        boxes = model.bbox_head.bbox_coder.decode(priors[:, :2].double(), sides, priors[:, 2].double())
        decoded[name] = boxes.transpose(1, 2), torch.cat([level.sigmoid().flatten(2) for level in logits], 2)
    return raw, decoded


# The layout


@pytest.mark.parametrize(('family', 'scale', 'first'), OFFICIAL)
def test_names_and_shapes_of_every_scale(family, scale, first):
    """Of the literal network, and of our model's weights by their official names."""
    expected = OFFICIAL[family, scale, first]
    with torch.device('meta'):
        network = Network(family, scale, first)
    assert numbers_of({name: tuple(value.shape) for name, value in network.state_dict().items()}) == expected
    config = our_config(family, scale, first=first)
    model = build_without_weights(config)
    assert family_of(model, config) == family
    assert numbers_of(official_shapes(model, family, joint=first)) == expected


@pytest.mark.parametrize(('family', 'scale', 'first', 'width', 'classes'), CASES)
def test_same_outputs(family, scale, first, width, classes, tmp_path, capsys):
    numbers = dict(first=first, width=width, classes=classes)
    images = random_images()
    network = randomise(Network(family, scale, **numbers), as_official(random_images(1)))
    state = network.state_dict()
    torch.save(state, tmp_path / 'in.pt')
    convert(tmp_path / 'in.pt', config_of(family, scale), tmp_path / 'out.pth', *options_of(family, scale, **numbers))
    told = capsys.readouterr().out
    assert told.startswith(f'{family}') and f' with {classes} classes; classes: ' in told
    assert f'{len(state)} tensors, ' in told and '.dfl.conv.weight, which is constant' in told

    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert ('dataset_meta' in content['meta']) == (classes == 80)  # COCO's
    counters = [value for name, value in content['state_dict'].items() if name.endswith('num_batches_tracked')]
    assert counters and all(value.dtype == torch.int64 and value == 7 for value in counters)
    model = MODELS.build(our_config(family, scale, **numbers).model)
    load_checkpoint(model, str(tmp_path / 'out.pth'), 'cpu', strict=True)
    with torch.no_grad():
        expected = network.double()(as_official(images).double())
        raw, decoded = our_outputs(model.eval(), images)
    assert list(raw) == list(expected) == (['', 'one2one_'] if family == 'YOLOv10' else [''])
    for branch, levels in expected.items():
        for ours, theirs in zip(raw[branch], levels, strict=True):
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() < 1e-5  # the images differ in their last digit
            assert theirs.std() > 0.1 and (theirs[0] - theirs[1]).abs().max() > 0.01  # another image, others
        for ours, theirs in zip(decoded[branch], decode(levels), strict=True):
            assert (ours - theirs).abs().max() < 1e-4


def test_releases_differ_where_ours_does(tmp_path):
    """A first release's heads lie otherwise: without the regrouping the outputs are not the same."""
    state = Network('YOLOv12', 'n', first=True).state_dict()
    name = 'model.8.m.1.0.attn.qkv'
    state[f'{name}.conv.weight'] = torch.arange(384.0).view(-1, 1, 1, 1).expand(-1, 128, 1, 1).clone()
    state[f'{name}.bn.bias'] = torch.arange(384.0)
    torch.save(state, tmp_path / 'in.pt')
    options = options_of('YOLOv12', 'n', first=True)
    convert(tmp_path / 'in.pt', config_of('YOLOv12', 'n'), tmp_path / 'out.pth', *options)
    ours = torch.load(tmp_path / 'out.pth')['state_dict']
    attention = 'backbone.stage4.1.blocks.1.0.attention'
    channels = torch.arange(384.0).view(4, 3, 32)  # heads, their queries, keys and values
    expected = dict(queries_keys=channels[:, :2].transpose(0, 1).flatten(), values=channels[:, 2].flatten())
    for part, order in expected.items():
        assert ours[f'{attention}.{part}.conv.weight'][:, 0, 0, 0].tolist() == order.tolist()
        assert ours[f'{attention}.{part}.bn.bias'].tolist() == order.tolist()


# The package itself, in a process of its own: it changes torch.save and more on import

OFFICIAL_SCRIPT = """
import sys, torch
from ultralytics.nn.tasks import DetectionModel
name, source, target = sys.argv[1:]
model = DetectionModel(f'{name}.yaml', verbose=False)
head = model.model[-1]
head.end2end = hasattr(head, 'one2one_cv2')  # some releases forget it
state = torch.load(source)['state_dict']
model.load_state_dict(state, strict=True)
with torch.no_grad():
    out = model.double().eval()(torch.load(source)['image'].double())
torch.save(out[0] if isinstance(out, tuple) else out, target)
"""


@pytest.mark.parametrize(('family', 'first'), [('YOLOv8', False), ('YOLOv10', False), ('YOLOv12', True)])
def test_same_detections_as_the_package(family, first, tmp_path):
    """It loads the literal network's weights strictly, and says what our model says."""
    environment = dict(os.environ, YOLO_CONFIG_DIR=str(tmp_path), YOLO_OFFLINE='true', YOLO_AUTOINSTALL='false')
    found = subprocess.run(
        [sys.executable, '-c', 'import ultralytics'], env=environment, capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip(f'ultralytics cannot be imported: {(found.stderr.strip() or "?").splitlines()[-1]}')
    images = random_images()
    network = randomise(Network(family, 'n', first), as_official(images))
    torch.save(dict(state_dict=network.state_dict(), image=as_official(images)), tmp_path / 'in.pt')
    name = 'yolo12n' if family == 'YOLOv12' else f'{family.lower()}n'
    arguments = [name, str(tmp_path / 'in.pt'), str(tmp_path / 'theirs.pt')]
    done = subprocess.run(
        [sys.executable, '-c', OFFICIAL_SCRIPT, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    theirs = torch.load(tmp_path / 'theirs.pt').double()

    options = options_of(family, 'n', first=first)
    convert(tmp_path / 'in.pt', config_of(family, 'n'), tmp_path / 'out.pth', *options)
    model = MODELS.build(our_config(family, 'n', first=first).model)
    load_checkpoint(model, str(tmp_path / 'out.pth'), 'cpu', strict=True)
    with torch.no_grad():
        _, decoded = our_outputs(model.eval(), images)
    if family == 'YOLOv10':  # detections: corners, score, label
        boxes, scores = (part.transpose(1, 2) for part in decoded['one2one_'])
        scores, boxes, labels = model.bbox_head.select(scores, boxes, theirs.shape[1])
        ours = torch.cat((boxes, scores[..., None], labels[..., None]), 2)
    else:
        ((boxes, scores),) = decoded.values()
        low, high = boxes.chunk(2, 1)
        ours = torch.cat(((low + high) / 2, high - low, scores), 1)
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-3
