"""What hours are reckoned with: shares of the makers' figures, and rates of the host.

One set for all models, methods and machines. ``benchmarks/hours_anchors.py`` holds what follows
from them against published runs; none is fitted to one of those.
"""

from __future__ import annotations

TRAIN_UTILISATION = 0.35
"""Of the dense bfloat16 throughput, in forward and backward passes of full micro-batches: the
middle of what transformers' own models reach without fused kernels (0.3 to 0.4)."""
SCORE_UTILISATION = 0.45
"""The same in forward passes alone."""
DECODE_UTILISATION = 0.6
"""Of the memory's bandwidth, while vLLM draws token by token: most of what a copy reaches (0.8),
less for the small matrices of a layer."""
DECODE_STEP_S = 0.008
"""Besides the device's work, for each token that vLLM draws: the host chooses the rows, launches
the recorded graph and samples. It is what a batch waits for once few rows are left."""
LAUNCH_LAYER_S = 0.0008
"""The same for each layer, where nothing is recorded and the host launches kernel by kernel: some
fifteen a layer, at 50 microseconds with what Python does between them."""
RECORDED_LAYER_S = 0.00016
"""The same where the native engine records its pass (measured on one H100: 4.9 ms a token of 30
layers, sampling and the dropping of rows included)."""
ROWS_AT_ONCE = 256
"""Rows that vLLM decodes at once at most, whatever its cache holds (its ``max_num_seqs``)."""
SYNC_S = 3.0
"""To put the engine to sleep, wake it and rebuild its cache, per step with rollouts."""
ENGINE_START_S = 120.0
"""vLLM compiles and records its graphs once per process."""
GRADE_S = 0.008
"""Per answer with one worker: 20 ms of math-verify for the four in ten whose gold answer is not a
plain number; the others never reach a worker."""
BUS_GBS = 10.0
"""Between host and device. PCIe 4 gives 25 from pinned memory; ordinary memory is copied twice."""
LINK_GBS = 150.0
"""Between devices of one machine, where weights are gathered layer by layer (NVLink: 300)."""
DISK_GBS = 1.0
"""Written and synced: one NVMe disk, or a good network file system."""
HASH_GBS = 1.8
"""SHA-256 on one thread with the processor's instructions for it (measured)."""
HOST_ADAM_S = 1e-9
"""Per weight of a fused AdamW step on one thread of the host (measured: 0.65e-9)."""
HOST_CAST_GBS = 5.6
"""Float32 weights that one thread rounds to bfloat16 before they cross the bus (measured)."""
ADAM_BYTES = 28
"""Read and written per weight of an AdamW step on a device: weight, gradient and two moments."""
