"""What of an SFT checkpoint foretells its accuracy after RL?"""
