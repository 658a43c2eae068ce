"""Can SFT and RL be decoupled? docs/studies/coupling.md"""
