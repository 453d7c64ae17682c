"""Tier 2 of the question axis: paraphrases and translations that a model wrote once and that are verified
without one. The perturbation itself is `perturb.text.rewrite`."""
