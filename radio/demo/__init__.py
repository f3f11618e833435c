"""`demo-vit-s`: a small real backbone that a package registry carries, for where no released version can be had."""

from radio.demo.choosing import DEFAULT_VERSION, choose_version
from radio.demo.fetching import DEMO, DEMO_LICENSE, DEMO_NAME, DEMO_NOTICE, DemoSource, fetch_demo, find_demo

__all__ = [
    "DEFAULT_VERSION",
    "DEMO",
    "DEMO_LICENSE",
    "DEMO_NAME",
    "DEMO_NOTICE",
    "DemoSource",
    "choose_version",
    "fetch_demo",
    "find_demo",
]
