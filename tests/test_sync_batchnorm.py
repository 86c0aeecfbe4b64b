import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.helpers import without_shape_checks
from training.common.amp import compile_loss
from training.common.sync_batchnorm import SyncBatchNorm2d, SyncBatchNorm3d, synchronise_batchnorm
from training.losses import orientation_loss


@pytest.fixture(params=[True, False], ids=["group", "alone"])
def group_of_one(request):
    """A group of one process, or no group at all."""
    if request.param:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if request.param:
        dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 4, 8, 5, 6)])
def test_joint_statistics_of_one_process_are_its_own(group_of_one, shape):
    torch.manual_seed(0)
    plain = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm3d)(4)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    holder = nn.Sequential(nn.Identity(), nn.Sequential(plain))
    plain.running_mean.uniform_()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    synchronise_batchnorm(holder)
    joint = holder[1][0]
    assert isinstance(joint, SyncBatchNorm2d | SyncBatchNorm3d)
    assert all(torch.equal(tensor, before[name]) for name, tensor in joint.state_dict().items())
    values = 3 * torch.randn(shape) + 100
    weight = torch.randn(shape)
    results = []
    for norm in (plain, joint):
        own = values.clone().requires_grad_()
        out = norm(own)
        (out * weight).sum().backward()
        results.append(
            [out, own.grad, norm.weight.grad, norm.bias.grad, *norm.state_dict().values()]
        )
    for expected, got in zip(*results, strict=True):
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
    for norm in (plain, joint):
        norm.eval()
    assert torch.allclose(plain(values), joint(values), rtol=1e-4, atol=1e-4)


def test_joint_statistics_keep_the_values_precision(group_of_one):
    values = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert SyncBatchNorm2d(3)(values).dtype == torch.bfloat16


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile=true needs a C\+\+ compiler"):
        compile_loss(orientation_loss, torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="compile=true needs triton"):
        compile_loss(orientation_loss, torch.device("cuda"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_compiled_loss_is_the_same():
    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 8, 48, 48)
    turn = torch.eye(3).expand(2, 3, 3).contiguous()
    angle = torch.tensor([0.3, -1.0])
    compiled = compile_loss(orientation_loss, torch.device("cpu"))
    expected = orientation_loss(a, b, turn, angle)
    with without_shape_checks():  # the compiler would compile the checks
        got = compiled(a, b, turn, angle)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)
