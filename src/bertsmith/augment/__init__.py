"""Back-translation: sentences become positive pairs, two views of one sentence, for contrastive pre-training.

CERT: Contrastive Self-supervised Learning for Language Understanding (Fang et al., arXiv 2005.12766), section 3.1: a
sentence x is translated to a pivot language and back; x' comes by one pivot (German), x'' by another (Chinese).

Differs from the paper: filters leave out pairs that teach nothing, or wrong things.
"""
