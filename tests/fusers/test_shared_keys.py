"""The cache of beams: what grows and moves in place equals what is copied."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from blender_med.fusers.shared_keys import BeamLayer, Buffers


def test_buffers_hold_what_a_plain_cache_holds():
    generator = torch.Generator().manual_seed(0)
    keys, values = Buffers(9), Buffers(9)
    ours, plain = Cache(layers=[BeamLayer(keys, values) for _ in range(3)]), DynamicCache()
    for step in range(8):
        order = torch.randint(0, 6, (6,), generator=generator)
        for layer in range(3):
            states = torch.randn(2, 6, 2, 1, 4, generator=generator)
            found = ours.update(*states, layer)
            expected = plain.update(*states, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert ours.get_seq_length() == step + 1
        ours.reorder_cache(order)
        plain.reorder_cache(order)
    for own, other in zip(ours.layers, plain.layers, strict=True):
        assert torch.equal(own.keys, other.keys)
        assert torch.equal(own.values, other.values)


def test_one_buffer_is_spare_for_all_layers():
    keys, values = Buffers(4), Buffers(4)
    cache = Cache(layers=[BeamLayer(keys, values) for _ in range(3)])
    for layer in range(3):
        cache.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4), layer)
    first = {layer.keys.data_ptr() for layer in cache.layers}
    for _ in range(5):
        cache.reorder_cache(torch.tensor([1, 0]))
        first |= {layer.keys.data_ptr() for layer in cache.layers}
    assert len(first) == 4
