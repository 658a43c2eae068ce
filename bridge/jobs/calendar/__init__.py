"""A suite on several cards as a calendar: what runs when, what is known then, when all ends."""
