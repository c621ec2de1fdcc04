"""What is written is what PyTorch writes: read by pickle's own rules here,
and by PyTorch in the parity tests."""

import pickletools
import zipfile

import numpy as np

from ldm_jax.interop import torch_writer

# What torch.load(weights_only=True) executes; anything else it refuses.
SAFE = {
  'PROTO', 'EMPTY_DICT', 'MARK', 'BINUNICODE', 'GLOBAL', 'BINPERSID', 'BININT',
  'LONG1', 'TUPLE', 'NEWFALSE', 'EMPTY_TUPLE', 'REDUCE', 'SETITEMS', 'STOP',
}  # fmt: skip
NAMES = {
  'torch FloatStorage',
  'torch LongStorage',
  'collections OrderedDict',
  'torch._utils _rebuild_tensor_v2',
}


def test_its_pickle_needs_little(tmp_path):
  path = str(tmp_path / 'x.ckpt')
  tensors = {
    'a': np.zeros((2, 3), np.float32),
    'b': np.arange(4),
  }
  torch_writer.write(path, tensors, global_step=2**40)
  with zipfile.ZipFile(path) as archive:
    steps = list(pickletools.genops(archive.read('archive/data.pkl')))
    assert archive.read('archive/data/0') == tensors['a'].tobytes()
    assert archive.read('archive/version') == b'3\n'
  assert {opcode.name for opcode, _, _ in steps} <= SAFE
  assert {a for o, a, _ in steps if o.name == 'GLOBAL'} == NAMES
  assert 2**40 in [argument for _, argument, _ in steps]
