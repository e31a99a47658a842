"""The real parts that tests run against, started and stopped by fixtures."""
