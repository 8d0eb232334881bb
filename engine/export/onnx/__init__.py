"""Models as ONNX graphs: each op of ours becomes the nodes of its row in a table; what has no row is written in smaller ops that have one.

    writer       the graph as it grows: names, arrays, the batch axis that stays open
    table        the rows by op, and what stands for an op without one
    elementwise, parts, windows, recurrent      the rows
    document     a trained model as the bytes of a file
"""
