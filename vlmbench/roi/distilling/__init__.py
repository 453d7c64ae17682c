"""Self-distillation of a region proposal network, after SD-RPN (arXiv 2509.16944): questions in, network out.

The frozen model answers; where it looked becomes labels; the network learns to tell them before the answer.
No annotation is used: neither answers nor boxes.
"""
