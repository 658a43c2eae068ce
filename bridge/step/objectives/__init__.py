"""Pure tensor maths of the training objectives: no model code, no state, no configuration.

Modules: advantages (plain Python), aggregation, policy_gradient, likelihood, kl, logprobs.
Import from the modules themselves. Nothing is re-exported here, because importing
`advantages` must not import torch.
"""
