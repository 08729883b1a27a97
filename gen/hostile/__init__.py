"""Files that somebody has tampered with: what reads one accepts it, or refuses it with a message of its own.

`seeds.py` makes sound files, `mutation.py` breaks them, `targets.py` has what reads them, `campaign.py` does
it a million times in processes of their own. ``python -m bitwright.gen.hostile`` is the command.
"""
