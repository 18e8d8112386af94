"""nemo-run recipes: experiments and model sizes as functions.

paper, paper_page   the authors' settings, fact by fact, and the page that shows ours beside them
"""
