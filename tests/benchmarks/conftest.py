import sys
from pathlib import Path

# The benchmarks are scripts of the checkout, not part of the installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
