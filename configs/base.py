"""Base: the reference run, and every setting with its default.

Question: when does a two-layer attention-only transformer form an induction
head on patterns that return at unpredictable distances, and what does the loss
Hessian do meanwhile?

Command:
  python -m induction_jax.train --config configs/base.py

What to expect: the transition between steps 700 and 900.

This file is generated from the declarations in induction_jax/config/:
  python -m induction_jax.config.describe > configs/base.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  # Seed of the initial weights and of everything else that is drawn.
  config.seed = 0

  # The sequences to learn from (see induction_jax.tasks).
  config.task = ConfigDict()
  # How sequences are drawn. Heads are judged on repeats in every case.
  config.task.name = "repeats"
  # Number of distinct tokens.
  config.task.vocab_size = 50
  # Tokens in a sequence.
  config.task.seq_length = 256
  # repeats: tokens in the shortest pattern.
  config.task.pattern_min = 4
  # repeats: tokens in the longest pattern.
  config.task.pattern_max = 32
  # repeats: fewest random tokens between occurrences.
  config.task.gap_min = 0
  # repeats: most random tokens between occurrences. Gaps are random so that
  # attention at a fixed distance cannot solve the task.
  config.task.gap_max = 32
  # Concentration of the rows of the transition matrices (markov) or of the
  # table of bigrams (bigram_trigger).
  config.task.dirichlet = 1.0
  # markov: also scale the columns of transition matrices to sum to 1, so that
  # unigrams predict nothing.
  config.task.doubly_stochastic = False
  # bigram_trigger: trigger tokens in each sequence.
  config.task.triggers = 5
  # bigram_trigger: use the most frequent tokens as triggers, instead of drawing
  # triggers for every sequence.
  config.task.fixed_triggers = False

  # The transformer (see induction_jax.model).
  config.model = ConfigDict()
  # Number of layers.
  config.model.n_layers = 2
  # Attention heads in a layer.
  config.model.n_heads = 8
  # Width of the residual stream; n_heads divides it.
  config.model.d_model = 128
  # Width of each layer's MLP; 0: attention only.
  config.model.d_mlp = 0
  # Position embedding: rotary; shortformer, added to the input of queries and
  # keys; or learned, added to the residual stream.
  config.model.position = "rotary"
  # Normalisation before each sublayer and before the unembedding.
  config.model.norm = "layernorm"
  # Mix each key with the key before it (Olsson et al. 2022).
  config.model.smeared_keys = False

  # The optimiser and its schedule (see induction_jax.training.optimizer).
  config.optim = ConfigDict()
  # The optimiser.
  config.optim.name = "adamw"
  # Learning rate after the warm-up.
  config.optim.learning_rate = 0.001
  # Learning rate after the warm-up: constant, or cosine decay to 0 at
  # train.num_steps.
  config.optim.schedule = "constant"
  # Steps of linear warm-up from 0; 0: no warm-up.
  config.optim.warmup_steps = 0
  # adamw, adam: decay rate of the first moment.
  config.optim.b1 = 0.9
  # adamw, adam: decay rate of the second moment.
  config.optim.b2 = 0.999
  # adamw, adam: added to the denominator.
  config.optim.eps = 1e-08
  # adamw: decoupled weight decay.
  config.optim.weight_decay = 0.01
  # sgd: momentum.
  config.optim.momentum = 0.9
  # Largest global norm of a gradient; 0: no clipping.
  config.optim.clip_norm = 0.0

  # The training batches and the length of training.
  config.train = ConfigDict()
  # Number of updates.
  config.train.num_steps = 20000
  # Sequences in a batch.
  config.train.batch_size = 64
  # Sequences that go through the network together; the gradient is the mean
  # over the tokens of the batch. 0: on a CPU as many as keep the attention
  # scores of a layer within 8 MiB, elsewhere the whole batch.
  config.train.micro_batch_size = 0
  # Tokens in the training loss: all, or those that an earlier occurrence in the
  # sequence determines.
  config.train.loss_tokens = "all"

  # Changes made throughout training (see induction_jax.interventions).
  config.intervention = ConfigDict()
  # Heads whose pattern (previous_token, induction, no_previous_token,
  # no_other_token) or output (zero, mean) is given, as `kind head`, separated
  # by commas, * for any: `previous_token L0H0, zero L1H*`.
  config.intervention.clamp = ""
  # Parameters or circuits that keep their initial value, separated by commas, *
  # for any: `w_e, qk L0H*`.
  config.intervention.freeze = ""
  # Project every update off or onto the top eigenspace of the Hessian, computed
  # on the batch of spectra whatever spectra.eigen_interval is.
  config.intervention.project = "none"
  # Dimension of that eigenspace.
  config.intervention.project_top_k = 10
  # Updates after which that eigenspace is recomputed.
  config.intervention.project_interval = 10

  # Losses, accuracies and head scores on the evaluation batch.
  config.behaviour = ConfigDict()
  # Steps between measurements.
  config.behaviour.interval = 20
  # Sequences in the evaluation batch, held out.
  config.behaviour.batch_size = 64

  # QK and OV circuits and composition, from the weights.
  config.circuits = ConfigDict()
  # Steps between measurements; 0: never.
  config.circuits.interval = 100
  # A token counts as copied or matched if its own entry is among the top_k
  # highest of its row.
  config.circuits.top_k = 1
  # With rotary positions, also evaluate QK at this distance; 0: not.
  config.circuits.rotary_offset = 16

  # Loss with heads or paths ablated.
  config.ablation = ConfigDict()
  # Steps between measurements; 0: never.
  config.ablation.interval = 100
  # Sequences of the evaluation batch, at most all of them.
  config.ablation.batch_size = 16
  # Also ablate every pair of heads in different layers.
  config.ablation.pairs = True

  # Extreme eigenpairs of the loss Hessian.
  config.spectra = ConfigDict()
  # Steps between measurements; 0: never.
  config.spectra.eigen_interval = 100
  # Steps between measurements, at most eigen_interval, while a CUSUM alarm on
  # the best previous-token and prefix-matching heads is on (see
  # induction_jax.transition.trigger: one false alarm in about 1000
  # measurements); 0: no alarm. Not in a sweep.
  config.spectra.adaptive = 0
  # Eigenpairs at each end of the spectrum.
  config.spectra.track_top_k_eigenvalues = 10
  # Sequences in the batch of the Hessian, held out.
  config.spectra.batch_size = 64
  # Sequences in a micro-batch of Hessian-vector products. 0: keep the
  # linearised gradient of the batch if it fits memory_gib (on a CPU: the
  # cache), else the largest micro-batch that fits. batch_size: always keep it.
  # results.nc records the choice.
  config.spectra.micro_batch_size = 0
  # GiB for the linearised gradient or one micro-batch, and as much again for
  # the Lanczos basis.
  config.spectra.memory_gib = 2.0
  # Most Hessian-vector products of one Lanczos run.
  config.spectra.max_order = 100
  # Rows of the Lanczos basis after which it restarts; 0: max_order, or as many
  # as fit memory_gib.
  config.spectra.max_basis = 0
  # Use the dense Hessian instead of Lanczos and of density's random vectors:
  # every eigenvalue, for at most 10,000 parameters.
  config.spectra.exact = False
  # An eigenpair is converged if its residual bound is at most tolerance times
  # the absolute eigenvalue.
  config.spectra.tolerance = 0.01
  # Largest eigenpairs of the preconditioned Hessian; 0: none.
  config.spectra.preconditioned_top_k = 1
  # Eigenpairs at each end of the Hessian's Gauss-Newton and functional parts;
  # 0: none.
  config.spectra.gauss_newton_top_k = 0
  # Write the eigenvectors of both ends to eigenvectors/<step>.npz (measure
  # writes to eigenvectors/remeasured): 8 * k * P bytes for k pairs at each end
  # and P parameters.
  config.spectra.keep_eigenvectors = False

  # The spectral density, by stochastic Lanczos quadrature.
  config.density = ConfigDict()
  # Steps between measurements; 0: never.
  config.density.interval = 0
  # Random vectors of the quadrature.
  config.density.probes = 8
  # Hessian-vector products for each of them.
  config.density.order = 60
  # Random vectors, of one product each, for the trace and the Frobenius norm
  # without the tracked eigenpairs, which are added exactly.
  config.density.trace_probes = 32

  # The Hessian by blocks of parameters: circuits, embeddings, norms.
  config.blocks = ConfigDict()
  # Steps between measurements; 0: never.
  config.blocks.interval = 0
  # Random vectors in each block, for the blocks' norms.
  config.blocks.probes = 4
  # Most Hessian-vector products for the extreme eigenvalues of the diagonal
  # blocks.
  config.blocks.max_order = 40

  # The participation ratio of the Hessian's top eigenvectors.
  config.participation = ConfigDict()
  # Steps between measurements; 0: never.
  config.participation.interval = 0

  # When the training state is saved.
  config.checkpoint = ConfigDict()
  # Steps between checkpoints.
  config.checkpoint.interval = 1000
  # Also save at powers of two up to the interval.
  config.checkpoint.log_spaced = True

  # Devices (see induction_jax.devices.mesh).
  config.mesh = ConfigDict()
  # Devices that share each batch, of data and of Hessians.
  config.mesh.data = 1
  # In a sweep, sets of devices that share the seeds; 0: as many as there are.
  config.mesh.seeds = 0
  # Devices that share the Lanczos basis along the parameters. They are the
  # devices of data where one number divides the other.
  config.mesh.params = 1

  # The figures.
  config.report = ConfigDict()
  # File format of the figures.
  config.report.format = "png"

  return config.lock()
