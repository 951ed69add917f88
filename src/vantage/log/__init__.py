"""The write-ahead log of an index: requests that are acknowledged in the bucket before a generation has them.

`store` says what is asked of a bucket, `tail` is the state that segments add up to, `state` reads it, `commit` adds to
it, `move` advances its start, seals it and goes on in another, `collect` deletes what is behind it, `remove` deletes
the index. docs/format.md, section 11, has the bytes and the protocol.

Above these, `rows` checks what is sent, `submission` is a write on its way, `sequencer` groups them and tells readers,
`client` and `relay` ask it, and `base` looks rows up for conditions.
"""
