"""What decides a result: the settings (Hydra), and the experiment that is built from them."""
