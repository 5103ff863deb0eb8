"""Whole commands: the only package that joins the stages."""
