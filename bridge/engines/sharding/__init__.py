"""A run on several processes: DeepSpeed's ZeRO-2 and ZeRO-3 under the same trainer."""
