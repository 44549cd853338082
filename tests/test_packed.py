"""Packed linear layers equal plain ones up to rounding."""

import pytest

torch = pytest.importorskip("torch")

from blender_med.packed import PackedLinear, can_pack, pack_linear_layers  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16]
# bfloat16 keeps 8 bits: 2^-8 of values of about 1; float32 sums 64 products in another order.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 64), (3, 5, 64), (700, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_equal_to_the_plain_layer(dtype, shape, bias):
    plain = torch.nn.Linear(64, 48, bias=bias, dtype=dtype)
    if not can_pack(plain.weight):
        pytest.skip("no oneDNN for this type here")
    rows = torch.randn(shape, dtype=dtype)
    packed = PackedLinear(plain.weight, plain.bias)
    with torch.inference_mode():
        torch.testing.assert_close(packed(rows), plain(rows), rtol=0, atol=TOLERANCE[dtype])


def test_every_linear_layer_of_a_model_is_replaced():
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    )
    rows = torch.randn(3, 4)
    with torch.inference_mode():
        expected = model(rows)
        assert pack_linear_layers(model) is model
        kinds = [type(m) for m in model.modules()]
        assert kinds.count(PackedLinear) == 2
        assert torch.nn.Linear not in kinds
        torch.testing.assert_close(model(rows), expected)


def test_other_types_stay_plain():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, dtype=torch.float64))
    assert not can_pack(model[0].weight)
    assert type(pack_linear_layers(model)[0]) is torch.nn.Linear
    with pytest.raises(ValueError, match="float64"):
        PackedLinear(model[0].weight)
