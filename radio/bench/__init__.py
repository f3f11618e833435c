"""How fast a model is on this machine, in every runtime and dtype at hand.

>>> from radio.bench import bench, recommend
>>> rows = bench("c-radio_v3-b", sizes=[(224, 224), (512, 512)])
>>> print(recommend(rows))
"""

from radio.bench.measuring import Failure, Row, bench, dtypes_of, random_model, recommend, runtimes_here

__all__ = ["Failure", "Row", "bench", "dtypes_of", "random_model", "recommend", "runtimes_here"]
