"""Before a run's loop: a folder with one writer, the machines that take part, and their ranks.

prepare      makes and checks a run folder
lease        one writer a folder, with a fencing token
nodes        several machines: who is first, who has gone
placement    who owns which GPU
launch       starts the ranks of this machine and watches them
"""
