"""`scripts/bench`: speed and memory as ratios, side by side in one run. Nothing here is a test: figures are shown, not
asserted.
"""
