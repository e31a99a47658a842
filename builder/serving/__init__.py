"""Hands artifacts out to clouds that fetch them."""
