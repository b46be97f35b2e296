import weakref

import pytest
import torch
from mmdet.models.necks import FPN
from mmengine.registry import init_default_scope

from mmscale.fine import FINEFPN
from mmscale.registry import MODELS

WIDTHS, STRIDES = [16, 24, 32, 48], [4, 8, 16, 32]


def maps(height=96, width=128, batch=1):
    torch.manual_seed(0)
    return tuple(torch.randn(batch, c, -(-height // s), -(-width // s)) for c, s in zip(WIDTHS, STRIDES, strict=True))


def neck(**options):
    return FINEFPN(**{'in_channels': WIDTHS, 'out_channels': 32, 'num_outs': 5, **options})


FPN_FORMS = [
    dict(),
    dict(num_outs=4),
    dict(start_level=1, add_extra_convs='on_input', num_outs=5),
    dict(start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True),
    dict(start_level=1, add_extra_convs='on_lateral', num_outs=6),
    dict(start_level=1, end_level=2, num_outs=2),
    dict(upsample_cfg=dict(mode='bilinear', align_corners=False)),
    dict(upsample_cfg=dict(scale_factor=2, mode='nearest')),
    dict(norm_cfg=dict(type='GN', num_groups=4), act_cfg=dict(type='ReLU'), no_norm_on_lateral=True),
]


@pytest.mark.parametrize('form', FPN_FORMS, ids=str)
def test_without_modulation_it_is_mmdetections_fpn(form):
    """All of FPN's arguments mean what they mean there: with FINE's maps at zero the outputs are equal."""
    init_default_scope('mmdet')
    ours = neck(**form)
    theirs = FPN(**{'in_channels': WIDTHS, 'out_channels': 32, 'num_outs': 5, **form})
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and all(key.startswith('fine.') for key in unexpected)
    for module in ours.fine.values():
        for linear in module.attention.out:
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    inputs = maps()
    for a, b in zip(ours(inputs), theirs(inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'form, levels',
    [
        (dict(), {'1': 2, '2': 1}),
        (dict(start_level=1), {'1': 2, '2': 1}),
        (dict(start_level=2, num_outs=3), {'2': 1}),
        (dict(start_level=1, end_level=2, num_outs=2), {'1': 1}),
        (dict(fine_levels=[0, 1, 2]), {'0': 4, '1': 2, '2': 1}),
        (dict(fine_levels=[1], fine_kernels=[4]), {'1': 4}),
        (dict(fine_levels=[]), {}),
    ],
)
def test_where_fine_stands_and_its_kernels(form, levels):
    assert {name: module.high_kernel for name, module in neck(**form).fine.items()} == levels


def test_high_level_of_the_second_fusion_is_the_fused_map():
    module = neck()
    seen = {}
    for level, fine in module.fine.items():
        fine.register_forward_hook(lambda m, args, out, level=level: seen.update({level: (*args, out)}))
    module(maps())
    low, high, aligned = seen['2']
    fused = aligned + torch.nn.functional.interpolate(high, size=low.shape[-2:], mode='nearest')
    torch.testing.assert_close(seen['1'][1], fused)


@pytest.mark.parametrize('size', [(96, 128), (97, 161), (800, 1333), (33, 47)])
def test_any_image_size(size):
    module = neck().eval()
    inputs = maps(*size)
    with torch.no_grad():
        outs = module(inputs)
    assert [out.shape[-2:] for out in outs[:4]] == [x.shape[-2:] for x in inputs]


def test_weights_start_as_documented_after_the_necks_own_initialisation():
    """A neck's ``init_cfg`` reaches every convolution in it; FINE's parts keep their start, and its own wins."""
    module = neck(fine=dict(down='dwconv'))
    module.init_weights()
    for fine, kernels in ((module.fine['1'], (4, 2)), (module.fine['2'], (2, 1))):
        for down, kernel in zip((fine.down_low, fine.down_high), kernels, strict=True):
            for weight in down.parameters():
                torch.testing.assert_close(weight, torch.full_like(weight, 1 / kernel**2))
        for name, parameter in fine.attention.named_parameters():
            bound = (6 / (32 + 32)) ** 0.5  # Xavier
            assert (parameter == 0).all() if name.endswith('bias') else 0.9 * bound < parameter.abs().max() <= bound
    constant = neck(fine=dict(init_cfg=dict(type='Constant', layer='Linear', val=0.5)))
    constant.init_weights()
    assert all((p == 0.5).all() for name, p in constant.fine.named_parameters() if name.endswith('weight'))


def test_no_level_outlives_its_use():
    """Held through the output convolutions, the finest level would raise the peak memory of a detector."""
    module, alive = neck().eval(), []
    low_levels = []
    for conv in module.lateral_convs:
        conv.register_forward_hook(lambda m, args, out: low_levels.append(weakref.ref(out)) or None)
    module.fpn_convs[0].register_forward_pre_hook(lambda m, args: alive.extend(x() is not None for x in low_levels))
    with torch.no_grad():
        module(maps())
    assert alive == [False, False, False, True]  # the top level is not aligned: it is itself the fused map


def test_map_of_modulation_keeps_the_memory_layout():
    """A channels-last map would have every later convolution laid out anew."""
    module = neck().eval()
    with torch.no_grad():
        assert all(out.is_contiguous() for out in module(maps()))
        modulation = module.fine['2'].modulation_map(torch.rand(1, 32, 8, 8), torch.rand(1, 32, 4, 4))
    assert modulation.is_contiguous()


def test_compiles_and_exports_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    module, inputs = neck(start_level=1, add_extra_convs='on_output').eval(), maps()
    with torch.no_grad():
        expected = module(inputs)
        compiled = torch.compile(module, fullgraph=True, backend='aot_eager')(inputs)
    path = str(tmp_path / 'neck.onnx')
    torch.onnx.export(module, (inputs,), path, input_names=['C2', 'C3', 'C4', 'C5'], opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [entry.name for entry in session.get_inputs()]  # C2 is not used from start_level=1
    exported = session.run(None, {name: inputs[int(name[1]) - 2].numpy() for name in names})
    for a, b, c in zip(expected, compiled, exported, strict=True):
        torch.testing.assert_close(b, a)
        torch.testing.assert_close(torch.from_numpy(c), a, rtol=1e-4, atol=1e-5)


def test_another_aligning_module_can_take_fines_place():
    @MODELS.register_module(name='TestDoubling', force=True)
    class Doubling(torch.nn.Module):
        def __init__(self, channels, kernel):
            super().__init__()

        def forward(self, low, high):
            return 2 * low

    try:
        module = neck(fine=dict(type='mmscale.TestDoubling'))
        assert isinstance(module.fine['2'], Doubling)
        module(maps())
    finally:
        MODELS.module_dict.pop('TestDoubling')


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(fine_levels=[4]), r'fine_levels=\[4\] names level 4, but this FPN fuses into the levels \[0, 1, 2\]'),
        (dict(fine_levels=[3]), r'names level 3'),
        (dict(start_level=1, fine_levels=[0]), r'names level 0, but this FPN fuses into the levels \[1, 2\]'),
        (
            dict(fine_kernels=[1]),
            r'fine_kernels=\[1\] must name one kernel for each of the distinct fine_levels=\[1, 2\]',
        ),
        (dict(fine_levels=[1, 1], fine_kernels=[1, 2]), r'distinct fine_levels=\[1, 1\]'),
        (dict(fine_kernels=[1, 0]), 'kernel=0 of FINE must be a whole number from 1'),
        (dict(fine=dict(channels=64)), 'fine.channels=64 does not match out_channels=32'),
        (dict(fine=dict(kernel=2)), 'fine.kernel=2 is set per level: use fine_kernels'),
        (dict(fine=dict(heads=4)), 'fine has no option heads=4: its options are ratio, num_heads, down'),
        (
            dict(fine=dict(attention=dict(projection='single'))),
            "fine.attention has no option projection='single': its options are num_heads, projections$",
        ),
        (
            dict(fine=dict(attention=dict(type='mmscale.WindowCrossLevelAttention', window=7))),
            'fine.attention has no option window=7: its options are window_size, num_heads, projections$',
        ),
        (
            dict(fine_kernel=[1]),
            r'FINEFPN has no option fine_kernel=\[1\]: its options are fine, fine_levels, fine_kernels, in_channels',
        ),
        (dict(out_channels=20), 'channels=20 is not a multiple of 16'),
        (
            dict(start_level=4),
            'start_level=4 and end_level=-1 do not leave two levels to fuse: in_channels has the levels 0 to 3',
        ),
        (dict(start_level=3), 'do not leave two levels'),
        (dict(end_level=7), 'end_level=7 do not leave two levels'),
        (dict(num_outs=3), 'num_outs=3 does not fit the 4 levels from 0 to 3: it must be 4 or more'),
        (dict(end_level=2), 'num_outs=5 does not fit the 3 levels from 0 to 2: it must be 3$'),
        (dict(add_extra_convs='on_top'), "add_extra_convs='on_top' is none of"),
    ],
)
def test_bad_config_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        neck(**options)
    assert '\n' not in str(caught.value)


def test_missing_arguments():
    with pytest.raises(ValueError, match='FINEFPN needs out_channels, num_outs'):
        FINEFPN(in_channels=WIDTHS)


def test_maps_of_another_backbone():
    with pytest.raises(
        ValueError, match=r'gives maps with \[16, 24, 32\] channels, but in_channels=\[16, 24, 32, 48\]'
    ):
        neck()(maps()[:3])
