"""Pure and instant: no process, no network, no file outside tmp_path."""
