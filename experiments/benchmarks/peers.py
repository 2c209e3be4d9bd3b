"""The peers by name, those that can be had."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from problem import Problem
from solvers import Peer

# Distribution, and the module and function that make it.
PEERS = {
  "pyhessian": ("pyhessian", "torch_peers", "make_pyhessian"),
  "curvlinops": ("curvlinops-for-pytorch", "torch_peers", "make_curvlinops"),
  "hessian_eigenthings": (
    "hessian-eigenthings",
    "torch_peers",
    "make_hessian_eigenthings",
  ),
  "matfree": ("matfree", "solvers", "make_matfree"),
  "scipy": ("scipy", "solvers", "make_scipy"),
}


def make_peer(name: str, problem: Problem) -> Peer:
  """Makes one of PEERS; ImportError if it or PyTorch is not installed."""
  _, module, function = PEERS[name]
  return getattr(import_module(module), function)(problem)


def make_peers(problem: Problem) -> dict[str, Peer]:
  """Those that are installed, with a message for each that is not."""
  peers = {}
  for name, (distribution, *_) in PEERS.items():
    try:
      peers[name] = make_peer(name, problem)
      print(f"{name}: {distribution} {version(distribution)}")
    except (ImportError, PackageNotFoundError) as error:
      print(f"{name}: skipped, {error}")
  return peers
