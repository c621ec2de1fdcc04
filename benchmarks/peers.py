"""diffusers and torch in the forms that people run them in.

'eager' and 'compiled' (torch.compile), both channels_last, with torch's fused
attention, which diffusers takes by itself. On a CPU, oneDNN does the work;
where nothing is trained, compiling freezes the weights, which lays them out for
it once. Compiling needs a C++ compiler there, and is left out without one.
"""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# On a CPU, Inductor writes C++.
COMPILES = DEVICE == 'cuda' or bool(shutil.which('g++') or os.getenv('CXX'))


def wait() -> None:
  if DEVICE == 'cuda':
    torch.cuda.synchronize()


def compiles(spec: Mapping[str, Any]) -> bool:
  """Whether torch.compile can be measured, and is to be."""
  return COMPILES and spec.get('compiled', True)


def inference(
  spec, model: torch.nn.Module, call: Callable
) -> dict[str, Callable]:
  """call(model) in each form."""
  return inference_parts(
    spec, {'model': model}, lambda parts: call(parts['model'])
  )


def inference_parts(
  spec, parts: Mapping[str, torch.nn.Module], call: Callable
) -> dict[str, Callable]:
  """call(parts) in each form, with each module in that form."""
  if DEVICE == 'cuda':
    torch.backends.cuda.matmul.allow_tf32 = True
  parts = {
    name: part.to(memory_format=torch.channels_last)
    for name, part in parts.items()
  }
  forms = {'eager': parts}
  if compiles(spec):
    from torch._inductor import config

    config.freezing = True
    mode = 'max-autotune' if DEVICE == 'cuda' else 'default'
    forms['compiled'] = {
      name: torch.compile(part, mode=mode) for name, part in parts.items()
    }

  def form(parts):
    def run():
      with torch.inference_mode():
        answer = call(parts)
      wait()
      return answer

    return run

  return {name: form(parts) for name, parts in forms.items()}


def facts() -> dict[str, Any]:
  return {
    'device': torch.cuda.get_device_name() if DEVICE == 'cuda'
    else f'{platform.machine()} x {torch.get_num_threads()}',
    'versions': {
      name: importlib.metadata.version(name) for name in ('torch', 'diffusers')
    },
    'onednn': torch.backends.mkldnn.is_available(),
    'cpu_capability': torch.backends.cpu.get_cpu_capability(),
    'compiles': COMPILES,
  }  # fmt: skip


def training(
  spec,
  model: torch.nn.Module,
  loss: Callable,
  learning_rate: float,
  decay: float,
) -> dict[str, Callable]:
  """A step of each form: loss(model), AdamW, moving average."""
  model = model.to(memory_format=torch.channels_last).train()
  params = list(model.parameters())
  average = [p.detach().clone() for p in params]
  adam = torch.optim.AdamW(params, lr=learning_rate, fused=True)
  forms = {'eager': model}
  if compiles(spec):
    forms['compiled'] = torch.compile(model)

  def form(model):
    def step():
      adam.zero_grad(set_to_none=True)
      loss(model).backward()
      adam.step()
      with torch.no_grad():
        torch._foreach_lerp_(average, params, 1 - decay)
      wait()

    return step

  return {name: form(model) for name, model in forms.items()}
