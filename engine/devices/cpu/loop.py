"""The inner loop of all training, compiled once for every model.

These functions are text for the kernel cache (see `machine`), where they are compiled together. All arguments are addresses or numbers. T threads
run the same loop, each with its own `thread` number; they meet at a barrier wherever one may read what another wrote.

tables      int64[rows, 2]     address of the kernel, where its words start
words       int64[...]
groups      int64[groups, 7]   first row, last row, size, chunk, tile, 1 if a barrier must follow, offset of an int64 that is 0 while shut, or 0
sections    int64[2, 5, 2]     for the full and for the last batch, first and last group of: gather, compute, guard, update, metrics
sync        int64[32]          0 threads waiting, 8 generation, 16 go on, 24 stop word (each in a cache line of its own)
"""
# pyright: reportUndefinedVariable=false


def wait(sync, threads, yielding):
    """Barrier: every thread comes here before any goes on."""
    if threads == 1:
        return
    waiting, generation = view_at(sync, int64), view_at(sync + 64, int64)
    now = atomic_load(generation)
    if atomic_add(waiting, 1) == threads - 1:
        atomic_store(waiting, 0)
        atomic_add(generation, 1)
        return
    spins = 0
    while atomic_load(generation) == now:
        spins += 1
        if spins > 4000:
            call_address(yielding)


def run_groups(arena, tables, words, groups, first, last, sync, thread, threads, yielding):
    """Run groups [first, last): this thread's chunks of each, tile by tile."""
    base = view_at(arena, uint8)
    row = view_at(tables, int64)
    for g in range(first, last):
        group = view_at(groups + 56 * g, int64)
        size, chunk, tile, gate = group[2], group[3], group[4], group[6]
        start = chunk * thread
        if gate != 0 and view_at(arena + gate, int64)[0] == 0:
            start = size
        while start < size:
            stop = min(size, start + chunk)
            begin = start
            while begin < stop:
                end = min(stop, begin + tile)
                for r in range(group[0], group[1]):
                    call_row(row[2 * r], base, view_at(words + 8 * row[2 * r + 1], int64), begin, end)
                begin = end
            start += chunk * threads
        if group[5] == 1:
            wait(sync, threads, yielding)


def run_steps(arena, tables, words, groups, sections, training, steps, full_steps, factors, series, sync, thread, threads, yielding):
    """Run up to `steps` batches; the number finished. From batch `full_steps` of an epoch on the plans of the last, smaller batch serve.

    factors float64[steps]: the schedule's factor at each step. series float64[steps, 2]: each step's loss and gradient norm, written here.
    A verdict of STOP returns before the step counts.
    """
    whole, number = view_at(arena, int64), view_at(arena + 64, float64)
    go, stop_word = view_at(sync + 128, int64), view_at(sync + 192, int64)
    factor, log = view_at(factors, float64), view_at(series, float64)
    for s in range(steps):
        if thread == 0:
            go[0] = 0 if atomic_load(stop_word) != 0 else 1
            if training == 1:
                number[2] = factor[s]
        wait(sync, threads, yielding)
        if go[0] == 0:
            return s
        part = view_at(sections + (80 if whole[3] >= full_steps else 0), int64)
        run_groups(arena, tables, words, groups, part[0], part[3], sync, thread, threads, yielding)
        verdict = 0
        if training == 1:
            run_groups(arena, tables, words, groups, part[4], part[5], sync, thread, threads, yielding)
            verdict = whole[4]
            if verdict == 2:
                return s
            if verdict == 0:
                run_groups(arena, tables, words, groups, part[6], part[7], sync, thread, threads, yielding)
        if verdict < 2:
            run_groups(arena, tables, words, groups, part[8], part[9], sync, thread, threads, yielding)
        wait(sync, threads, yielding)
        if thread == 0:
            if training == 1:
                log[2 * s] = number[0]
                log[2 * s + 1] = number[1]
                whole[1] += 1
                whole[5] += 1 if verdict == 0 else 0
            whole[3] += 1
    return steps
