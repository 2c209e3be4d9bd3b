"""Quick: the whole instrument in under three minutes on two CPU cores."""

from configs import base


def get_config():
  config = base.get_config()
  config.task.seq_length = 64
  config.task.pattern_max = 12
  config.task.gap_max = 8
  config.model.n_heads = 4
  config.model.d_model = 64
  config.optim.learning_rate = 3e-3
  config.train.num_steps = 2000
  config.train.batch_size = 32
  config.behaviour.interval = 10
  config.behaviour.batch_size = 64
  config.circuits.interval = 50
  config.spectra.eigen_interval = 50
  config.spectra.batch_size = 32
  config.spectra.micro_batch_size = 32
  config.checkpoint.interval = 200
  return config
