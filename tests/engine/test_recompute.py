"""``activation_checkpointing``: what is trained is the same, and so are the norms' statistics."""
import copy

import mmengine.runner
import mmengine.runner.activation_checkpointing
import mmengine.runner.runner
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.recompute import turn_on_activation_checkpointing
from mmscale.engine.train import main


class Small(nn.Module):
    """A backbone and a neck whose batch, which is random in part, and arguments come by name."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU())
        self.neck = Neck()

    def forward(self, images):
        return self.neck(self.backbone(images), scale=2.0)


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, momentum=None)  # a mean over all batches, by their counter
        self.conv = nn.Conv2d(8, 4, 1)
        self.computed = []

    def forward(self, maps, *, scale):
        self.computed.append(scale)
        return (self.conv(self.norm(maps)) * scale,)


def trained(model, modules, images):
    """Gradients and buffers after two steps."""
    torch.manual_seed(3)
    if modules:
        turn_on_activation_checkpointing(model, modules)
    for _ in range(2):
        (out,) = model(images)
        out.square().sum().backward()
    return {name: value.grad for name, value in model.named_parameters()}, dict(model.named_buffers())


@pytest.mark.parametrize('modules', ['backbone', ['backbone', 'neck'], ['neck', 'neck.norm'], ['backbone.1']])
def test_gradients_and_statistics_are_those_without(modules):
    torch.manual_seed(0)
    plain, images = Small(), torch.randn(4, 3, 16, 16)
    forgetful = copy.deepcopy(plain)
    expected, found = trained(plain, None, images), trained(forgetful, modules, images)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in found[0].values())
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
    assert forgetful.backbone[1].momentum == 0.1 and forgetful.backbone[1].num_batches_tracked == 2
    assert len(forgetful.neck.computed) == (4 if 'neck' in modules else 2)


def test_without_gradients_nothing_is_kept_or_computed_twice():
    model, images = Small().eval(), torch.randn(4, 3, 16, 16)
    expected = model(images)[0]
    turn_on_activation_checkpointing(model, ['backbone', 'neck'])
    with torch.no_grad():
        assert torch.equal(model(images)[0], expected) and len(model.neck.computed) == 2


def test_a_copy_runs_its_own_modules():
    """As an average of the weights is one."""
    model, images = Small().eval(), torch.randn(4, 3, 16, 16)
    turn_on_activation_checkpointing(model, ['backbone', 'neck'])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.neck.conv.weight.zero_()
        other.neck.conv.bias.fill_(1)
    other(images)[0].sum().backward()
    assert (other(images)[0] == 2).all() and other.neck.conv.weight.grad is not None
    assert model.neck.conv.weight.grad is None and not model.neck.computed


def test_a_name_that_the_model_does_not_have():
    with pytest.raises(ValueError, match="activation_checkpointing: there is no module 'bakbone' in the model"):
        turn_on_activation_checkpointing(Small(), ['bakbone'])


def test_mmengine_takes_it():
    for module in (mmengine.runner, mmengine.runner.runner, mmengine.runner.activation_checkpointing):
        assert module.turn_on_activation_checkpointing is turn_on_activation_checkpointing


def test_a_training_is_the_same_to_the_last_bit(write_config, tmp_path):
    states = []
    for name, option in (('plain', 'None'), ('forgetful', '[backbone,neck]')):
        main([write_config(), '--work-dir', str(tmp_path / name), '--cfg-options', f'activation_checkpointing={option}',
              'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None'])
        states.append(load_checkpoint(tmp_path / name / 'epoch_1.pth')['state_dict'])
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_yolos_backbone_and_neck():
    pytest.importorskip('mmyolo', reason='the YOLOs stand on mmyolo, which is optional')
    options = dict(deepen_factor=0.33, widen_factor=0.125)
    channels = [256, 512, 1024]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmyolo'):
        plain = nn.Sequential(
            MODELS.build(dict(type='YOLOv8CSPDarknet', last_stage_out_channels=1024, **options)),
            MODELS.build(dict(type='YOLOv8PAFPN', in_channels=channels, out_channels=channels, **options)))
    results = []
    for modules in (None, ['0', '1']):
        model = copy.deepcopy(plain).train()
        if modules:
            turn_on_activation_checkpointing(model, modules)
        sum(level.square().mean() for level in model(torch.ones(2, 3, 64, 64).cumsum(-1))).backward()
        results.append({**{name: value.grad for name, value in model.named_parameters()},
                        **dict(model.named_buffers())})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
