"""The metadata is in pyproject.toml; this file is for tools that look for a setup.py."""

from setuptools import setup

setup()
