"""Writes a checkpoint of a run as a TransformerLens model.

  python -m induction_jax.export runs/a
  python -m induction_jax.export runs/a --step=400 --out=model.safetensors

The model's config is written beside the weights, in a .json file of the same
name:

  config = HookedTransformerConfig(**json.load(open("model.json")))
  model = HookedTransformer(config)
  model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
"""

from pathlib import Path

from induction_jax import exchange
from induction_jax.commands import command_line
from induction_jax.config import ConfigError
from induction_jax.exchange import Architecture
from induction_jax.run.experiment import make_reader
from induction_jax.run.snapshots import init_snapshot
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import load_run


def main(argv: list[str]) -> int:
  """Runs the command line; returns the exit status."""
  parser = command_line.make_parser("export", "RUN", __doc__)
  command_line.add_run_argument(parser)
  parser.add_argument(
    "--step",
    type=int,
    metavar="N",
    help="Step of a checkpoint. Default: the last.",
  )
  parser.add_argument(
    "--out",
    metavar="FILE",
    help="File to write. Default: RUN/weights/STEP.safetensors.",
  )
  values = command_line.parse(parser, argv)
  root = command_line.run_directory(parser, values)
  out = Path(values.out) if values.out else None
  for path in export(root, values.step, out):
    print(f"written: {path}")
  return 0


def export(
  root: Path, step: int | None = None, out: Path | None = None
) -> tuple[Path, Path]:
  """Writes the weights of a checkpoint and their config.

  Args:
    root: the run directory.
    step: the step of the checkpoint; by default the last.
    out: the safetensors file; by default RUN/weights/STEP.safetensors.

  Returns:
    The paths of the weights and of the config.

  Raises:
    ConfigError: if there is no such run or checkpoint, or if TransformerLens
      cannot represent the network.
  """
  directory, config = load_run(root)
  if config.intervention.clamp:
    raise ConfigError(
      "a run with intervention.clamp cannot be exported: the clamps are not "
      "part of the weights, and a HookedTransformer has no clamps"
    )
  saved = checkpoints.steps(directory.checkpoints)
  if not saved or step not in (None, *saved):
    raise ConfigError(
      f"--step must be the step of a checkpoint, got {step}; there are "
      f"{', '.join(map(str, saved)) or 'none'}"
    )
  step = saved[-1] if step is None else step
  out = out or root / "weights" / f"{step}.safetensors"
  if out.suffix != ".safetensors":
    raise ConfigError(f"--out must end in .safetensors, got {out}")
  if out.with_suffix(".json").exists() and not out.exists():
    raise ConfigError(
      f"--out {out}: the config would overwrite {out.with_suffix('.json')}"
    )
  like = init_snapshot(make_reader(config))
  params = checkpoints.restore(directory.checkpoints, step, like).state.params
  task = config.task
  architecture = Architecture(config.model, task.vocab_size, task.seq_length)
  return out, exchange.write_model(out, architecture, params)


if __name__ == "__main__":
  command_line.run_main(main)
