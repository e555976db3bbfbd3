"""What a device allows a server to learn: its policy, its own ledger, and the answer to each request.

Nothing here needs torch, numpy, scipy or dp-accounting: a light device decides by the same code.
"""
