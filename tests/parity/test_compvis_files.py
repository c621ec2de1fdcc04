"""Files of PyTorch, read without it and written without it."""

import collections

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import safetensors.torch  # noqa: E402

from ldm_jax.interop import files  # noqa: E402

TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def tensors() -> dict:
  torch.manual_seed(0)
  base = torch.randn(4, 5, 6)
  return {
    **{str(t).replace('torch.', ''): (base * 9).to(t) for t in TYPES},
    'transposed.weight': base.transpose(0, 2),
    'part': base[1, 2:4, ::2],
    'parameter': torch.nn.Parameter(base[0].clone()),
    'scalar': torch.tensor(3.5),
    'empty': torch.zeros(0, 3),
    'shared': base,
    'shared again': base,
  }


def lightning_checkpoint() -> dict:
  """Everything that a trainer writes beside its state_dict."""
  net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
  optimizer = torch.optim.AdamW(net.parameters())
  net(torch.randn(5, 3)).sum().backward()
  optimizer.step()
  return {
    'state_dict': collections.OrderedDict(tensors() | net.state_dict()),
    'optimizer_states': [optimizer.state_dict()],
    'epoch': 3,
    'global_step': 7,
    'best': np.float64(0.1),
    'hparams': {'device': torch.device('cpu'), 'dtype': torch.float16},
    'shape': torch.zeros(2, 3).shape,
    'times': collections.defaultdict(list),
  }


def assert_same(ours: dict, theirs: dict):
  assert ours.keys() == theirs.keys()
  for name, x in theirs.items():
    x = x.detach()
    assert ours[name].shape == tuple(x.shape), name
    if x.dtype == torch.bfloat16:
      assert str(ours[name].dtype) == 'bfloat16'
      np.testing.assert_array_equal(ours[name].astype('f4'), x.float())
    else:
      assert ours[name].dtype == x.numpy().dtype, name
      np.testing.assert_array_equal(ours[name], x.numpy())


@pytest.mark.parametrize('new', [True, False], ids=['zip', 'legacy'])
def test_what_torch_saves_is_read(tmp_path, new):
  path = str(tmp_path / 'x.ckpt')
  save = lambda x: torch.save(x, path, _use_new_zipfile_serialization=new)
  content = lightning_checkpoint()
  save(content)
  assert_same(files.read_tensors(path, not new), content['state_dict'])
  save(tensors())
  assert_same(files.read_tensors(path, not new), tensors())


def test_a_whole_module_is_refused(tmp_path):
  path = str(tmp_path / 'x.pt')
  torch.save(torch.nn.Linear(2, 3), path)
  with pytest.raises(ValueError, match='torch.nn.modules.linear.Linear'):
    files.read_tensors(path)


def test_checksums_may_be_left_out(tmp_path):
  path = str(tmp_path / 'x.pt')
  torch.serialization.set_crc32_options(False)
  try:
    torch.save(tensors(), path)
  finally:
    torch.serialization.set_crc32_options(True)
  assert_same(files.read_tensors(path), tensors())


@pytest.mark.parametrize('mmap', [False, True])
def test_torch_opens_what_is_written_here(tmp_path, mmap):
  path = str(tmp_path / 'x.ckpt')
  given = {k: v for k, v in tensors().items() if v.dtype != torch.bfloat16}
  given = {k: v.detach().numpy() for k, v in given.items()}
  given['bf'] = np.asarray(given['float32'], files.torch_writer.BFLOAT16)
  supported = files.torch_writer.STORAGES
  given = {k: v for k, v in given.items() if v.dtype in supported}
  files.write_tensors(path, given, global_step=123)
  content = torch.load(path, weights_only=True, mmap=mmap)
  assert content['global_step'] == 123
  assert_same(given, content['state_dict'])
  assert_same(files.read_tensors(path), content['state_dict'])


def test_safetensors_go_both_ways(tmp_path):
  path = str(tmp_path / 'x.safetensors')
  given = {k: v.detach().clone().contiguous() for k, v in tensors().items()}
  safetensors.torch.save_file(given, path)
  assert_same(files.read_tensors(path), given)
  files.write_tensors(path, files.read_tensors(path))
  assert_same(files.read_tensors(path), safetensors.torch.load_file(path))
