"""ONE STEP: rows, weights, log-probs, losses, gradients, optimiser steps. Read this room first."""
