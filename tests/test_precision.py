import pytest
import torch

from rekd_hloc.features import precision
from rekd_hloc.features.precision import full_precision, low_precision, rounds_to_tf32

GPU = torch.device("cuda")
"""The switches are there without one."""


@pytest.fixture(autouse=True)
def switches():
    """As a program finds them: torch's defaults."""
    yield
    torch.backends.cudnn.allow_tf32 = True


def test_full_precision_switches_rounding_off_and_puts_it_back():
    assert rounds_to_tf32()
    with full_precision(GPU):
        assert not rounds_to_tf32()
        with low_precision(GPU):
            assert rounds_to_tf32()
        assert not rounds_to_tf32()
    assert rounds_to_tf32()
    assert torch.backends.cudnn.allow_tf32  # the older switch can still be read


def test_the_choice_of_the_program_comes_back_after_an_error():
    torch.backends.cudnn.allow_tf32 = False

    def fail():
        with low_precision(GPU):
            assert rounds_to_tf32()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert not rounds_to_tf32()
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9")
def test_a_program_that_uses_the_newer_switch():
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # the older one cannot be read from now on
    with low_precision(GPU):
        assert rounds_to_tf32()
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"


def test_a_torch_without_the_newer_switch(monkeypatch):
    monkeypatch.delattr(type(torch.backends.cudnn), "conv", raising=False)
    # where torch looks for what its stand-in for this module lacks
    monkeypatch.setattr(torch.backends.cudnn, "m", object())
    assert rounds_to_tf32()
    with full_precision(GPU):
        assert not torch.backends.cudnn.allow_tf32
        assert not rounds_to_tf32()
    assert torch.backends.cudnn.allow_tf32


def test_a_processor_rounds_to_bfloat16_on_request_only():
    convolution = torch.nn.Conv2d(1, 4, 3).requires_grad_(False)
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = convolution(image)
    cpu = torch.device("cpu")
    with low_precision(cpu):
        assert convolution(image).dtype == torch.bfloat16
        with full_precision(cpu):
            assert torch.equal(convolution(image), exact)
    assert torch.equal(convolution(image), exact)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_a_cpu_computes_in_bfloat16_only_where_that_is_fast(monkeypatch, has_instructions):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: has_instructions)
    factor = torch.rand(4, 4)
    with low_precision(torch.device("cpu")):
        product = factor @ factor
    assert product.dtype == (torch.bfloat16 if has_instructions else torch.float32)
