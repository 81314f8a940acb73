"""`python -m bertsmith`, which `torchrun -m bertsmith` and `accelerate launch -m bertsmith` start once for each GPU."""

import sys

from bertsmith.cli import main

sys.exit(main())
