import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmscale.analysis.complexity import complexity
from mmscale.cfsam import CFSAM
from mmscale.cfsam.gfe import GlobalFeatureExtraction, flatten_levels
from mmscale.cfsam.partition import partition

WIDTHS, SIZES = [12, 6, 8], [(6, 8), (3, 4), (2, 1)]  # 48 + 12 + 2 = 62 tokens
ODD = [(5, 7), (4, 3), (1, 1)]  # 48 tokens
SSD300 = dict(zip((38, 19, 10, 5, 3, 1), (512, 1024, 512, 256, 256, 256), strict=True))  # sides and widths
SMALL = dict(channels=8, num_layers=1, num_heads=2, feedforward_channels=12)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def cfsam(in_channels=WIDTHS, **options):
    return CFSAM(in_channels, **{**SMALL, **options})


def maps(sizes=SIZES, widths=WIDTHS, batch=2, **options):
    return [torch.randn(batch, c, *size, **options) for c, size in zip(widths, sizes, strict=True)]


def weighed(outs):
    """A loss in which no two values weigh the same."""
    return sum((out.float() * torch.linspace(-1, 2, out.numel()).view(out.shape)).sum() for out in outs)


def assert_equal(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('count', range(1, 8))
def test_one_to_seven_levels_keep_their_shapes_and_train(count, batch):
    """Odd and single-pixel sizes, a different width for each; every parameter and every input gets a gradient."""
    sizes = [(11, 7), (5, 8), (5, 3), (3, 3), (1, 4), (2, 1), (1, 1)][:count]
    widths = [3, 8, 1, 5, 2, 7, 4][:count]
    module, inputs = cfsam(widths), maps(sizes, widths, batch, requires_grad=True)
    outs = module(inputs)
    assert isinstance(outs, tuple) and [out.shape for out in outs] == [x.shape for x in inputs]
    weighed(outs).backward()
    named = {**dict(module.named_parameters()), **{f'input {i}': x for i, x in enumerate(inputs)}}
    for name, x in named.items():
        assert x.grad is not None and x.grad.isfinite().all() and (x.grad != 0).any(), name


@pytest.mark.parametrize(
    'options',
    [
        dict(levels=[0, 2], num_parts=3),
        dict(stages=['lfe']),
        dict(stages=['lfe', 'gfe']),
        dict(depthwise=True, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')),
        dict(dropout=0.1),
    ],
    ids=str,
)
def test_every_parameter_gets_a_gradient_in_every_form(options):
    module = cfsam(**options)
    weighed(module(maps())).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_from_a_config_behind_another_neck():
    """MMEngine builds a sequence of a list; the second neck takes what the first gives."""
    fpn = dict(type='mmdet.FPN', in_channels=WIDTHS, out_channels=4, num_outs=5)
    neck = MMDET_MODELS.build([fpn, dict(type='mmscale.CFSAM', in_channels=[4] * 5, **SMALL)])
    inputs = maps([(8, 8), (4, 4), (2, 2)])
    assert [out.shape for out in neck(inputs)] == [out.shape for out in neck[0](inputs)]


# Parts ----------------------------------------------------------------------------------------------------------------


def gfe(num_parts, **options):
    defaults = dict(channels=8, num_layers=2, num_heads=2, feedforward_channels=12)
    return GlobalFeatureExtraction(num_parts=num_parts, **{**defaults, **options})


@pytest.mark.parametrize('num_parts', [2, 3])
def test_parts_do_not_see_each_other(num_parts):
    module, tokens = gfe(num_parts), torch.randn(2, 18, 8)
    other = tokens.clone()
    other[:, num_parts * 2] = torch.randn(8)  # of part 0
    before, after = partition(module(tokens), num_parts), partition(module(other), num_parts)
    rows = torch.arange(2 * num_parts)
    first = rows % num_parts == 0
    assert torch.equal(before[~first], after[~first])
    assert (before[first] != after[first]).any(dim=2).all(), 'every token of part 0 sees the change'


@pytest.mark.parametrize('num_parts', [1, 2, 3])
def test_each_part_is_ordinary_attention_over_its_tokens(num_parts):
    """All parts go through the same layers; with one part, all tokens see all."""
    module, tokens = gfe(num_parts), torch.randn(2, 18, 8)
    out = module(tokens)
    for part in range(num_parts):
        own = slice(part, None, num_parts)
        torch.testing.assert_close(out[:, own], nn.Sequential(*module.transformer)(tokens[:, own]))


@pytest.mark.parametrize('num_parts', [1, 3])
def test_permuting_the_tokens_of_a_part_permutes_its_outputs(num_parts):
    module, tokens = gfe(num_parts), torch.randn(2, 18, 8)
    order = torch.arange(18)
    order[0::num_parts] = order[0::num_parts][torch.randperm(18 // num_parts)]
    assert not torch.equal(order, torch.arange(18))
    torch.testing.assert_close(module(tokens[:, order]), module(tokens)[:, order])


class Operators(TorchDispatchMode):
    """Every operator that runs, backward passes included, and the size of the largest tensor that one gives back."""

    def __init__(self):
        super().__init__()
        self.names, self.numel = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(func.__name__)
        for x in out if isinstance(out, tuple | list) else [out]:
            self.numel = max(self.numel, x.numel() if torch.is_tensor(x) else 0)
        return out


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('num_parts', [1, 2])
def test_no_matrix_of_all_pairs_of_tokens(num_parts, training):
    inputs = [torch.randn(1, 4, 20, 25), torch.randn(1, 4, 10, 10)]  # 600 tokens
    module = cfsam([4, 4], num_parts=num_parts).train(training)
    with Operators() as seen, torch.set_grad_enabled(training):
        outs = module(inputs)
        if training:
            sum(out.sum() for out in outs).backward()
    assert 0 < seen.numel < (600 // num_parts) ** 2


def test_parts_are_one_batch_and_no_loop():
    """Two layers call attention twice, however many parts there are, and nothing else is called more often either."""
    inputs, names = maps([(8, 9), (6, 8)], [4, 4]), {}  # 120 tokens, which all of these divide
    for num_parts in (2, 3, 4, 6, 8):
        with Operators() as seen, torch.no_grad():
            cfsam([4, 4], num_layers=2, num_parts=num_parts)(inputs)
        names[num_parts] = [name for name in seen.names if 'uniform' not in name]
    attention = [name for name in names[2] if 'scaled_dot_product' in name]
    assert len(attention) == 2
    assert all(other == names[2] for other in names.values())


@pytest.mark.parametrize('num_parts', [1, 2, 7])
def test_attention_is_called_once_a_layer(num_parts, monkeypatch):
    attention, calls = nn.functional.scaled_dot_product_attention, []

    def counted(query, key, value, **options):
        calls.append(query.shape)
        return attention(query, key, value, **options)

    monkeypatch.setattr(nn.functional, 'scaled_dot_product_attention', counted)
    cfsam(num_layers=3, num_parts=num_parts)(maps())
    assert calls == [(2 * num_parts, 2, -(-62 // num_parts), 4)] * 3  # parts of both images, heads, tokens, width


# Levels and stages ----------------------------------------------------------------------------------------------------


def influence(module, source, inputs):
    """Whether each output depends on the input of one level."""
    inputs = [x.requires_grad_(i == source) for i, x in enumerate(inputs)]
    outs = module(inputs)
    gradients = [
        torch.autograd.grad(out.square().sum(), inputs[source], retain_graph=True, allow_unused=True)[0]
        if out.requires_grad
        else None
        for out in outs
    ]
    return [gradient is not None and bool((gradient != 0).any()) for gradient in gradients]


@pytest.mark.parametrize('source', range(3))
@pytest.mark.parametrize(
    'options, connected',
    [
        (dict(num_parts=1), [[1, 1, 1]] * 3),
        (dict(num_parts=1, stages=['lfe', 'gfe']), [[1, 1, 1]] * 3),
        (dict(num_parts=1, stages=['lfe']), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        (dict(num_parts=1, levels=[0, 2]), [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
        (dict(num_parts=2), [[1, 1, 1]] * 3),
    ],
    ids=str,
)
def test_which_levels_see_each_other(options, connected, source):
    assert influence(cfsam(**options), source, maps()) == connected[source]


@pytest.mark.parametrize('num_parts', [1, 2, 4, 8])
def test_how_far_a_pixel_reaches(num_parts):
    """The last pixel of the last level changes tokens 62 and 63 in LFE, and those all tokens of their parts."""
    inputs = maps([(6, 8), (3, 4), (1, 4)], batch=1)
    changed = [x.clone() for x in inputs]
    changed[2][..., 3] += 1
    module = cfsam(num_parts=num_parts, stages=('lfe', 'gfe'))
    differences = [(a != b).any(1).flatten() for a, b in zip(module(inputs), module(changed), strict=True)]
    parts = {62 % num_parts, 63 % num_parts}
    assert torch.cat(differences).tolist() == [token % num_parts in parts for token in range(64)]


@pytest.mark.parametrize('levels', [[0, 1], [1, 2], [0, 2], [1]], ids=str)
def test_levels_that_are_not_named_pass_untouched(levels):
    module, inputs = cfsam(levels=levels), maps()
    outs = module(inputs)
    for level, (out, x) in enumerate(zip(outs, inputs, strict=True)):
        assert (out is x) == (level not in levels)
    alone = cfsam([WIDTHS[level] for level in levels])
    alone.load_state_dict(module.state_dict())
    expected = alone([inputs[level] for level in levels])
    assert all(torch.equal(outs[level], out) for level, out in zip(levels, expected, strict=True))


def test_stages_hold_only_their_own_parameters():
    def parts(*stages):
        return {name for name, _ in cfsam(stages=stages).named_children()}

    assert parts('lfe') == {'lfe', 'recover'}
    assert parts('lfe', 'gfe') == {'lfe', 'gfe', 'recover'}
    assert parts('lfe', 'gfe', 'ffr') == {'lfe', 'gfe', 'fusion', 'recover'}


def test_without_gfe_each_level_is_three_convolutions():
    module, inputs = cfsam(stages=['lfe']), maps()
    chains = [nn.Sequential(*local, back) for local, back in zip(module.lfe, module.recover, strict=True)]
    assert_equal(module(inputs), [chain(x) for chain, x in zip(chains, inputs, strict=True)])


def test_inputs_are_not_written_to():
    inputs = maps()
    copies = [x.clone() for x in inputs]
    cfsam(act_cfg=dict(type='ReLU', inplace=True))(inputs)
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))


def test_tokens_stand_row_by_row_level_after_level():
    x = [torch.arange(6.0).view(1, 1, 2, 3), torch.arange(6.0, 8.0).view(1, 1, 2, 1)]
    assert flatten_levels(x).flatten().tolist() == list(range(8))


# Use ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('num_parts', [1, 2, 4])
def test_batch_of_two_is_two_batches_of_one(num_parts):
    module, inputs = cfsam(num_parts=num_parts), maps()
    single = [module([x[i : i + 1] for x in inputs]) for i in range(2)]
    assert_equal(module(inputs), [torch.cat(pair) for pair in zip(*single, strict=True)])


@pytest.mark.parametrize('num_parts', [2, 4])
def test_bfloat16_autocast_stays_close_and_trains(num_parts):
    module, inputs = cfsam(num_parts=num_parts), maps()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = module(inputs)
    assert_equal([out.float() for out in mixed], module(inputs), rtol=0.05, atol=0.05)
    weighed(mixed).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name


@pytest.mark.parametrize('num_parts', [2, 3])
def test_derivatives_are_exact(num_parts):
    """Of maps and parameters, on 4 + 1 tokens, which neither number of parts divides."""
    module = cfsam([2, 3], channels=4, num_parts=num_parts, feedforward_channels=3).double()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def outs(a, b, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), ([a, b],))

    inputs = maps([(2, 2), (1, 1)], [2, 3], batch=1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outs, (*inputs, *parameters), fast_mode=True)


def test_state_dict_round_trip_whatever_the_number_of_parts(tmp_path):
    module, inputs = cfsam(num_parts=2), maps()
    torch.save(module.state_dict(), tmp_path / 'cfsam.pth')
    for num_parts, same in ((2, True), (3, False)):
        other = cfsam(num_parts=num_parts)
        other.load_state_dict(torch.load(tmp_path / 'cfsam.pth', weights_only=True))
        outs = zip(other(inputs), module(inputs), strict=True)
        assert all(torch.equal(a, b) for a, b in outs) == same


def test_channels_last_maps():
    module, inputs = cfsam(), maps()
    last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    assert_equal(module.to(memory_format=torch.channels_last)(last), module(inputs))


def test_compiles_without_a_graph_break():
    """For sizes that the parts do not divide, and then for others that they do."""
    module = cfsam([3, 2], num_parts=2).eval()
    compiled = torch.compile(module, fullgraph=True, backend='aot_eager', dynamic=False)
    with torch.no_grad():
        for sizes in ([(5, 7), (4, 3)], [(6, 8), (4, 3)]):
            inputs = maps(sizes, [3, 2])
            assert_equal(compiled(inputs), module(inputs))


@pytest.mark.parametrize('num_parts, traced', [(1, SIZES), (2, SIZES), (3, SIZES), (3, ODD)], ids=str)
def test_exported_with_open_sizes(num_parts, traced, tmp_path):
    """Traced where the parts divide the tokens and used where they do not, and the other way round; any batch, too."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    module, path = cfsam(num_parts=num_parts).eval(), str(tmp_path / 'cfsam.onnx')
    names, outs = ['F1', 'F2', 'F3'], ['R1', 'R2', 'R3']
    axes = {name: {0: 'batch', 2: f'{name}_height', 3: f'{name}_width'} for name in [*names, *outs]}
    torch.onnx.export(
        module,
        (maps(traced, batch=2),),
        path,
        input_names=names,
        output_names=outs,
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    others = [(9, 5), (2, 2), (1, 2)], [(40, 40), (20, 20), (9, 9)], [(1, 1)] * 3
    for sizes, batch in zip((SIZES, ODD, *others), (1, 2, 3, 1, 3), strict=True):
        inputs = maps(sizes, batch=batch)
        exported = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        with torch.no_grad():
            assert_equal([torch.from_numpy(x) for x in exported], module(inputs), rtol=1e-4, atol=1e-4)


# Numbers and weights --------------------------------------------------------------------------------------------------


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_on_ssd300():
    """All by hand: with SSD300's 26,285,486 the detector has 45.175 M; the paper prints 45.16 M."""
    widths = list(SSD300.values())
    module = CFSAM(widths)
    total, squares = sum(widths), sum(c * c for c in widths)
    assert (total, squares) == (2816, 1_769_472)
    lfe = 9 * squares + total + 256 * total + 6 * 256  # 3x3, then 1x1
    layer = 4 * (256 * 256 + 256) + 2 * 256 * 384 + 384 + 256 + 4 * 256
    fusion, recover = 512 * 256 + 256, 256 * total + total
    assert parameters(module.lfe) == lfe == 16_650_496
    assert parameters(module.gfe) == 3 * layer == 3 * 461_440
    assert parameters(module.fusion) == fusion == 131_328
    assert parameters(module.recover) == recover == 723_712
    assert parameters(module) == lfe + 3 * layer + fusion + recover == 18_889_856
    assert (26_285_486 + parameters(module)) / 1e6 == pytest.approx(45.16, rel=0.001)


@pytest.mark.parametrize('num_parts', [1, 2, 3])
def test_multiply_adds_on_ssd300(num_parts):
    """By hand, biases and norms not counted: the scores of a token are with N / P others. Interpolation is free."""
    module = CFSAM(list(SSD300.values()), num_parts=num_parts)
    inputs = [torch.zeros(1, c, side, side) for side, c in SSD300.items()]
    tokens = {1: 1940, 2: 1940, 3: 1941}[num_parts]
    lfe = sum(side**2 * (9 * c * c + 256 * c) for side, c in SSD300.items())
    layer = tokens * (4 * 256 * 256 + 2 * 256 * 384) + 2 * 256 * tokens * (tokens // num_parts)
    restored = tokens * 512 * 256 + sum(side**2 * 256 * c for side, c in SSD300.items())
    assert lfe / 1e9 == pytest.approx(7.37, abs=0.005)
    cost = complexity(module, inputs=(inputs,))
    assert cost.macs == pytest.approx(lfe + 3 * layer + restored, rel=0.002) and cost.unknown == {}


@pytest.mark.parametrize('stages', [('lfe',), ('lfe', 'gfe'), ('lfe', 'gfe', 'ffr')])
def test_every_form_is_initialised(stages):
    module = cfsam(stages=stages)
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7.0)
    module.init_weights()
    touched = {name for name, parameter in module.named_parameters() if (parameter != 7).any()}
    assert touched == {name for name, _ in module.named_parameters() if 'norm' not in name}


def test_weights_after_initialisation():
    """Xavier's uniform bounds, a normal distribution in the Transformer, and biases at zero."""
    module = cfsam([32, 64], channels=64)
    module.init_weights()
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert {'lfe.0.0.conv', 'lfe.1.1', 'gfe.transformer.0.attention.qkv', 'fusion', 'recover.1'} < layers.keys()
    for name, layer in layers.items():
        assert (layer.bias == 0).all(), name
        weight = layer.weight.detach()
        if name.startswith('gfe.'):
            assert weight.std() == pytest.approx(0.02, rel=0.1) and weight.abs().max() > 3 * 0.02, name
            continue
        fan_out, fan_in, *kernel = weight.shape
        taps = kernel[0] * kernel[1] if kernel else 1
        bound = (6 / (taps * (fan_in + fan_out))) ** 0.5
        assert 0.97 * bound < weight.abs().max() <= bound, name
        assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.1), name
    for norm in (layer for layer in module.modules() if isinstance(layer, nn.LayerNorm)):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_depthwise_convolutions_start_at_the_scale_of_their_inputs():
    module, inputs = CFSAM([512, 64], channels=64, depthwise=True), maps([(12, 12), (6, 6)], [512, 64])
    module.init_weights()
    for convs, x in zip(module.lfe, inputs, strict=True):
        assert convs[0].conv.weight.shape[1] == 1 and (convs[0].conv.bias == 0).all()
        assert 0.7 < convs[0](x)[:, :, 1:-1, 1:-1].std() < 1.4


def test_own_initialisation_wins():
    module = cfsam(init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    module.init_weights()
    assert all((conv.weight == 0.5).all() for conv in module.modules() if isinstance(conv, nn.Conv2d))


def test_default_initialisation_keeps_the_scale_of_its_inputs():
    module, inputs = CFSAM([64, 128], channels=64), maps([(12, 12), (6, 6)], [64, 128])
    module.init_weights()
    for x in (*module.lfe(inputs), *module(inputs)):
        assert 0.5 < x.std() < 2


def test_the_untrained_transformer_is_little_more_than_the_identity():
    """Untrained attention is nearly the tokens' mean: with Xavier's weights that outweighs what tells them apart."""
    module, tokens = CFSAM([8]), torch.randn(1, 600, 256)
    module.init_weights()
    changed = module.gfe(tokens) - tokens
    assert changed.std() < 0.2 * tokens.std()
    assert changed.mean(dim=1).std() < 0.1 * tokens.std(), 'no offset that all tokens share'


def test_depthwise_local_features():
    """9 Ci + Ci instead of 9 Ci^2 + Ci for each 3x3 convolution."""
    full, light = cfsam(), cfsam(depthwise=True)
    assert parameters(full) - parameters(light) == 9 * sum(c * c - c for c in WIDTHS)
    x = maps()
    changed = [y.clone() for y in x]
    changed[0][:, 3] += 1
    differ = (light.lfe[0][0](x[0]) != light.lfe[0][0](changed[0])).flatten(2).any(2).any(0)
    assert differ.nonzero().flatten().tolist() == [3], 'a channel changes itself alone'


def test_norm_and_activation_stand_between_the_convolutions():
    assert type(cfsam(norm_cfg=dict(type='GN', num_groups=2)).lfe[0][0].norm) is nn.GroupNorm
    assert type(cfsam(act_cfg=dict(type='GELU')).lfe[0][0].activate) is nn.GELU
    plain = cfsam().lfe[0][0]
    assert not plain.with_norm and not plain.with_activation


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(channels=0), 'channels=0 of CFSAM should be a whole number from 1'),
        (dict(num_parts=0), 'num_parts=0 of CFSAM should be a whole number from 1'),
        (dict(num_parts=1.5), 'num_parts=1.5 of CFSAM should be a whole number from 1'),
        (dict(num_parts=-2), 'num_parts=-2 of CFSAM should be a whole number from 1'),
        (dict(num_layers=0), 'num_layers=0 of CFSAM should be a whole number from 1'),
        (dict(feedforward_channels=0), 'feedforward_channels=0 of CFSAM should be a whole number from 1'),
        (dict(num_heads=3), 'channels=8 of an attention must be a multiple of num_heads=3'),
        (dict(num_heads=0), 'channels=8 of an attention must be a multiple of num_heads=0'),
        (dict(in_channels=[]), r'in_channels=\[\] of CFSAM names no map'),
        (dict(levels=[]), r'levels=\[\] of CFSAM leaves no map of 3; leave the module out instead'),
        (
            dict(levels=[1, 3]),
            r'levels=\[1, 3\] of CFSAM names level 3, but in_channels has the levels 0 to 2',
        ),
        (dict(levels=[-1]), r'levels=\[-1\] of CFSAM names level -1, but in_channels has the levels 0 to 2'),
        (dict(levels=[1, 0]), r'levels=\[1, 0\] of CFSAM should be ascending, each level once'),
        (dict(levels=[1, 1]), r'levels=\[1, 1\] of CFSAM should be ascending, each level once'),
        *(
            (
                dict(stages=stages),
                rf'stages=\[{named}\] of CFSAM should be one of '
                r"\['lfe'\], \['lfe', 'gfe'\], \['lfe', 'gfe', 'ffr'\]: each stage stands on those before it",
            )
            for stages, named in (
                ([], ''),
                (['gfe'], "'gfe'"),
                ('ffr', "'ffr'"),
                (['lfe', 'ffr'], "'lfe', 'ffr'"),
                (['gfe', 'lfe'], "'gfe', 'lfe'"),
                (['lfe', 'gfe', 'ffr', 'lfe'], "'lfe', 'gfe', 'ffr', 'lfe'"),
            )
        ),
    ],
)
def test_bad_options_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=f'^{message}$'):
        cfsam(**options)


@pytest.mark.parametrize('widths', [WIDTHS[:2], [*WIDTHS, 4], [12, 6, 9], []], ids=str)
def test_maps_of_another_backbone(widths):
    message = rf'^CFSAM got maps with \[{", ".join(map(str, widths))}\] channels, but in_channels=\[12, 6, 8\]$'
    with pytest.raises(ValueError, match=message):
        cfsam(levels=[0, 1])(maps([(2, 2)] * len(widths), widths))
