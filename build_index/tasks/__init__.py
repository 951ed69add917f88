"""How a build falls into tasks: a function over pieces of the rows, run here, by processes or on a Ray cluster.

Everything that takes longer with more rows is a `Tasks.map` over a fixed grid of them; what stands between is the same
work for any number of rows, or little, and runs in the process that drives the build. A task is pure, so that its
result has a name before it is made: the hash of the function's code, of what all pieces share, and of its piece. A
stage keeps results by these names, and a build that is started again takes from there what exists.

Not here: what the tasks are. Each stands beside the work that it does a part of.
"""
