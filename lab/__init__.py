"""The studies, as code that anyone can rerun, and the embedded checkpoints with the script that made them."""
