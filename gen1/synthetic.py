"""`python -m gen1.synthetic` is `python -m simulator`, by the name that older recipes give it."""

import runpy

if __name__ == "__main__":
    runpy.run_module("simulator", run_name="__main__", alter_sys=True)
