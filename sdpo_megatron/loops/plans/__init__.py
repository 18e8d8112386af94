"""The plan of each step: who trains on what, told to every rank through files.

plans       made on receipts, written for all ranks
file        the plan as a file, a line for each data-parallel rank
board       where rank 0 says that it is there, and where every rank looks
own_share   a rank's own samples, read from the groups' files
"""
