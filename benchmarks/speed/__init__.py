"""Training speed of lightning_rl beside installed peers; see `README.md` in this folder."""
