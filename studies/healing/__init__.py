"""What SFT forgets out of distribution and what RL restores: docs/studies/healing.md."""
