"""Whether any schedule adds up what SFT and RL gain alone: docs/studies/synergy.md."""
