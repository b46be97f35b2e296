import threading

import pytest
import torch

from mmscale.layers.image_sizes import image_sizes, row_image_sizes, sizes_of_images, state_rows

SIZES = [(640, 480), (320, 200)]
NO_CONTEXT = 'does not tell it: use mmscale.RTDETRHead, .* make your head size-aware .*, or pass image_sizes='


def test_blocks_are_in_the_images_order():
    with image_sizes(SIZES, rows='blocks'):
        assert row_image_sizes(6).tolist() == [[640, 480]] * 3 + [[320, 200]] * 3
        assert row_image_sizes(2).tolist() == [[640, 480], [320, 200]]
        assert row_image_sizes(0).shape == (0, 2)


def test_blocks_that_do_not_fit_are_refused():
    with (
        image_sizes([*SIZES, (10, 10)], rows='blocks'),
        pytest.raises(ValueError, match='the loss has 7 rows, which are not equal blocks of 3 images'),
    ):
        row_image_sizes(7)


def test_rows_as_stated():
    with image_sizes(torch.tensor(SIZES), rows='stated'):
        state_rows(torch.tensor([1, 0, 1]))
        assert row_image_sizes(3).tolist() == [[320, 200], [640, 480], [320, 200]]
        state_rows(torch.tensor([0]), unit=torch.tensor([8.0]))
        assert row_image_sizes(1).tolist() == [[80, 60]]
        state_rows(torch.tensor([0, 1]), unit=torch.tensor([8, 4]))
        assert row_image_sizes(2).tolist() == [[80, 60], [80, 50]]
        state_rows(torch.tensor([], dtype=torch.long))
        assert row_image_sizes(0).shape == (0, 2)


def test_rows_that_were_not_stated_are_refused():
    with image_sizes(SIZES, rows='stated'):
        with pytest.raises(ValueError, match='has 4 rows, but the head did not say by state_rows which images'):
            row_image_sizes(4)  # not taken for two equal blocks
        state_rows(torch.tensor([0, 1, 1]))
        with pytest.raises(ValueError, match='has 4 rows, but the head stated the images of 3'):
            row_image_sizes(4)
        with pytest.raises(ValueError, match='state_rows got 3 rows and 2 units'):
            state_rows(torch.tensor([0, 1, 1]), unit=torch.tensor([8, 4]))


def test_blocks_cannot_be_stated():
    with image_sizes(SIZES, rows='blocks'), pytest.raises(ValueError, match="around it, not rows='blocks'"):
        state_rows(torch.tensor([0]))


def test_a_statement_outside_says_nothing():
    state_rows(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=NO_CONTEXT):
        row_image_sizes(2)
    with image_sizes(SIZES, rows='stated'), pytest.raises(ValueError, match='did not say'):
        row_image_sizes(2)


def test_nested_contexts_restore_what_was_before():
    with image_sizes(SIZES, rows='stated'):
        state_rows(torch.tensor([1]))
        with image_sizes([(8, 4)], rows='stated'):
            state_rows(torch.tensor([0, 0]))
            with image_sizes([(6, 3)], rows='blocks'):
                assert row_image_sizes(1).tolist() == [[6, 3]]
            assert row_image_sizes(2).tolist() == [[8, 4]] * 2
        assert row_image_sizes(1).tolist() == [[320, 200]]
    with pytest.raises(ValueError, match=NO_CONTEXT):
        row_image_sizes(1)


def test_exceptions_restore_what_was_before():
    with image_sizes(SIZES, rows='blocks'):
        with pytest.raises(KeyError), image_sizes([(8, 4)], rows='stated'):
            state_rows(torch.tensor([0]))
            raise KeyError
        assert row_image_sizes(2).tolist() == [[640, 480], [320, 200]]
    with pytest.raises(KeyError), image_sizes(SIZES, rows='blocks'):
        raise KeyError
    with pytest.raises(ValueError, match=NO_CONTEXT):
        row_image_sizes(2)


def test_another_thread_knows_nothing():
    found = []

    def ask():
        try:
            found.append(row_image_sizes(2))
        except ValueError as error:
            found.append(str(error))

    with image_sizes(SIZES, rows='blocks'):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(found) == 1 and 'does not tell it' in found[0]


@pytest.mark.parametrize(
    ('sizes', 'rows', 'sentence'),
    [
        (SIZES, 'levels', "rows='levels' of image_sizes should be 'blocks' or 'stated'"),
        ([], 'blocks', r'sizes of image_sizes have the shape \(0,\), but should have \(B, 2\)'),
        ((640, 480), 'blocks', r'have the shape \(2,\)'),
        ([(640, 480, 3)], 'blocks', r'have the shape \(1, 3\)'),
        ([(640, 0)], 'blocks', r'sizes=\[\[640.0, 0.0\]\] of image_sizes should be positive'),
        ([(float('nan'), 1)], 'blocks', r'sizes=\[\[nan, 1.0\]\]'),
        ([(float('inf'), 1)], 'blocks', r'sizes=\[\[inf, 1.0\]\]'),
    ],
)
def test_sizes_that_are_none_are_refused(sizes, rows, sentence):
    with pytest.raises(ValueError, match=sentence), image_sizes(sizes, rows=rows):
        pass


def test_sizes_of_images_are_width_and_height_without_padding():
    metas = [dict(img_shape=(480, 640), batch_input_shape=(512, 672)), dict(img_shape=(200, 320, 3))]
    assert sizes_of_images(metas) == [(640, 480), (320, 200)]
