"""What an adversary measures, against what was promised: canaries through the real rounds, and real attacks."""
