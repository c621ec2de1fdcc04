"""Runs small enough to train in a test: seconds, most of them compiling."""

import json


def first_stage(**changes) -> dict:
  """A KL first stage of 20 steps on scenes, f = 4."""
  config = {
    'stage': 'first_stage',
    'num_steps': 20,
    'batch_size': 8,
    'log_every': 1,
    'show_every': 20,
    'save_every': 20,
    'keep_checkpoints': 100,
    'data': {'source': 'scenes', 'size': 32, 'num_examples': 20},
    'first_stage': {
      'name': 'kl',
      'z_channels': 3,
      'embed_dim': 3,
      'channels': 8,
      'multipliers': (1, 1, 2),
      'num_res_blocks': 1,
      'mid_attention': False,
      'norm_groups': 4,
    },
    'loss': {
      'perceptual_weight': 0.0,
      'disc_weight': 0.5,
      'disc_start': 2,
      'disc_layers': 1,
      'disc_channels': 8,
    },
    'optim': {'learning_rate': 4.5e-6, 'scale_lr': True, 'b1': 0.5},
  }
  return merged(config, changes)


def diffusion(**changes) -> dict:
  """A text-conditional model of 20 steps on an untrained first stage."""
  config = {
    **first_stage(),
    'stage': 'diffusion',
    'first_stage_from': 'random',
    'scale_batches': 2,
    'null_prob': 0.2,
    'task': {
      'name': 'text',
      'width': 16,
      'depth': 1,
      'num_heads': 2,
      'head_width': 8,
      'length': 16,
      'vocab_file': 'scenes',
      'vocab_size': 39,
      'special_tokens': (2, 3, 0),
    },
    'unet': {
      'out_channels': 3,
      'channels': 16,
      'multipliers': (1, 2),
      'attention_levels': (1,),
      'num_res_blocks': 1,
      'num_heads': 2,
      'attention': 'cross',
      'norm_groups': 4,
      'dropout': 0.1,
    },
    'loss': {'prediction': 'eps'},
    'optim': {'learning_rate': 1e-4, 'scale_lr': False, 'b1': 0.9},
    'sampling': {'num': 2, 'steps': 2, 'guidance': 2.0},
  }
  return merged(config, changes)


def merged(config: dict, changes: dict) -> dict:
  """config with nested changes, as config.json would hold it."""
  for key, value in changes.items():
    if isinstance(value, dict):
      value = merged(dict(config.get(key, {})), value)
    config = {**config, key: value}
  return json.loads(json.dumps(config))


STAGES = {'first_stage': first_stage, 'diffusion': diffusion}
